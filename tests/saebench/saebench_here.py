"""SAEBench's environment, for the tests that run it: made where everything is tested, otherwise used if it is there."""

import os
import subprocess
from pathlib import Path

import pytest

from dmsae_ray.saebench.environment import inner_environment, make_environment, ready_python
from tests.optional import left_out

INSIDE = Path(__file__).parents[2] / "dmsae_ray" / "saebench" / "inside"


@pytest.fixture(scope="session")
def saebench() -> Path:
    """The Python of the environment. Where it is being made, this waits for it."""
    python = make_environment() if os.environ.get("DMSAE_TEST_EVERYTHING") else ready_python()
    if python is None:
        left_out("needs SAEBench's environment: dmsae eval --setup")
    return python


def run_inside(python: Path, program: str, *arguments: object, **more: str) -> None:
    """Run a program there that may import what is below `inside`; `more` are variables of its environment."""
    done = subprocess.run(
        [str(python), "-c", program, *map(str, arguments)],
        env={**inner_environment(), "PYTHONPATH": str(INSIDE), "HF_HUB_OFFLINE": "1", **more},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
