"""A small but whole experiment, and the command line that runs it in a process of its own."""

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from filelock import FileLock

from dmsae_ray.cli.commands import main
from dmsae_ray.distill.core import load_core

SMALL: dict[str, Any] = {
    "name": "small",
    "model": {"name": "tiny", "layer": 1, "dtype": "float32"},
    "corpus": {"source": "stdlib", "context": 64, "tokens": 40_000, "attribution_tokens": 8192, "eval_tokens": 2048},
    "activations": {"dtype": "float32", "shard_tokens": 4096, "shuffle_shards": 4, "norm_tokens": 10_000},
    "sae": {"n_latents": 256, "group_sizes": [64, 64, 128], "k": 8},
    "recipe": {
        "tokens": 25_600,
        "batch_size": 256,
        "lr": 0.002,
        "warmup_steps": 10,
        "dead_after_tokens": 10_000,
        "threshold_beta": 0.9,
        "threshold_start_step": 20,
    },
    "distill": {"cycles": 2},
    "sweep": {"coverage": [0.3, 0.6]},
    "resources": {"cpus_per_model_actor": 0.5, "checkpoint_every_tokens": 5120},
}


def write_config(folder: Path, **sections: Any) -> Path:
    """SMALL as a YAML file in `folder`, its output there too; `sections` replace values within sections.

    The output is named relative to the folder: `dmsae` runs there.
    """
    tree = {**SMALL, "output": "runs"}
    for name, values in sections.items():
        tree[name] = {**tree.get(name, {}), **values} if isinstance(values, dict) else values
    path = folder / "experiment.yaml"
    path.write_text(yaml.safe_dump(tree))
    return path


def environment(**more: str) -> dict[str, str]:
    """The environment of a user who has no server of any kind running."""
    gone = ("MLFLOW_TRACKING_URI", "MLFLOW_RUN_ID", "RAY_ADDRESS")
    return {**{name: value for name, value in os.environ.items() if name not in gone}, **more}


def dmsae(*arguments: object, timeout: float = 400, **more: str) -> "subprocess.CompletedProcess[str]":
    """Run `dmsae` as a user would, in a process of its own, in the folder of the file that is named."""
    command = [sys.executable, "-m", "dmsae_ray.cli", *map(str, arguments)]
    return subprocess.run(
        command,
        cwd=_folder(arguments),
        capture_output=True,
        text=True,
        timeout=timeout,
        env=environment(**more),
        stdin=subprocess.DEVNULL,
    )


@dataclass(frozen=True)
class Done:
    """What a command left."""

    returncode: int
    stdout: str
    stderr: str


Here = Callable[..., Done]


@pytest.fixture
def dmsae_here(ray_cluster: Any, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Iterator[Here]:
    """Run `dmsae` in this process, on the cluster that the tests share, in the folder of the file that is named."""
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_RUN_ID", "RAY_ADDRESS"):
        monkeypatch.delenv(name, raising=False)
    on_terminate = signal.getsignal(signal.SIGTERM)

    def run(*arguments: object) -> Done:
        monkeypatch.chdir(_folder(arguments))
        capfd.readouterr()
        code = main([str(argument) for argument in arguments])
        out, err = capfd.readouterr()
        # Ray's native code writes there too; in a session of its own `dmsae` sends that to a file.
        return Done(code, out, re.sub(r"^\[\d{4}-\d\d-\d\d [^\n]*\.cc:\d+:[^\n]*\n", "", err, flags=re.M))

    yield run
    signal.signal(signal.SIGTERM, on_terminate)


def _folder(arguments: Sequence[object]) -> Path:
    return [Path.cwd(), *(a.parent for a in arguments if isinstance(a, Path) and a.suffix == ".yaml")][-1]


COUNTING = Path(__file__).parent / "sweep" / "counting"
"""On a process's PYTHONPATH: each context that the language model runs is written down."""


@pytest.fixture(scope="session")
def finished_sweep(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The output folder of the small sweep, run once without disturbance, for all processes of `pytest -n`.

    In `counts` stands which contexts the language model ran, see `sweep/counting`.
    """
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "finished"
    with FileLock(f"{folder}.lock"):
        if not (folder / "stdout.txt").exists():
            (folder / "counts").mkdir(parents=True, exist_ok=True)
            path = os.pathsep.join(filter(None, [str(COUNTING), os.environ.get("PYTHONPATH")]))
            more = {"PYTHONPATH": path, "DMSAE_TEST_COUNTS": str(folder / "counts")}
            done = dmsae("sweep", write_config(folder), **more)
            assert done.returncode == 0, done.stdout + done.stderr
            (folder / "stdout.txt").write_text(done.stdout)
    return folder


def sweep_folder(run: Path, name: str = "small") -> Path:
    """The folder of the small sweep below a test's folder."""
    (found,) = (run / "runs" / "sweeps").glob(f"{name}-*")
    return found


TRIALS = ["k8-tau0.3-seed0", "k8-tau0.6-seed0"]


def cores(run: Path, trials: Sequence[str] = TRIALS) -> dict[str, tuple[bytes, list[list[list[int]]]]]:
    """Per trial: the distilled core's rows, bit for bit, and who was in the core of each cycle."""
    found = {}
    for trial in trials:
        folder = sweep_folder(run) / "trials" / trial
        rows = load_core(folder / "core.safetensors").rows
        found[trial] = (rows.numpy().tobytes(), json.loads((folder / "summary.json").read_text())["lineage"])
    return found


def trained_cycles(run: Path) -> dict[str, bytes]:
    """The weights of every SAE that was trained, bit for bit, by cycle key."""
    cycles = run / "runs" / "cycles"
    return {
        path.name: (path / "sae" / "sae.safetensors").read_bytes()
        for path in cycles.iterdir()
        if not path.name.startswith(".")
    }
