"""A small but whole experiment, and the command line that runs it in a process of its own."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from filelock import FileLock

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
    "resources": {"cpus_per_model_actor": 0.5, "checkpoint_every_tokens": 2560},
}


def write_config(folder: Path, **sections: Any) -> Path:
    """SMALL as a YAML file in `folder`, its output there too; `sections` replace values within sections.

    The output is named relative to the folder: `dmsae` runs there.
    """
    tree = {**SMALL, "output": "runs"}
    for name, values in sections.items():
        tree[name] = {**tree[name], **values} if isinstance(values, dict) else values
    path = folder / "experiment.yaml"
    path.write_text(yaml.safe_dump(tree))
    return path


def environment() -> dict[str, str]:
    """The environment of a user who has no server of any kind running."""
    gone = ("MLFLOW_TRACKING_URI", "MLFLOW_RUN_ID", "RAY_ADDRESS")
    return {name: value for name, value in os.environ.items() if name not in gone}


def dmsae(*arguments: object, timeout: float = 400) -> "subprocess.CompletedProcess[str]":
    """Run `dmsae` as a user would: in the folder of the file that is named."""
    (*_, folder) = [Path.cwd(), *(a.parent for a in arguments if isinstance(a, Path) and a.suffix == ".yaml")]
    command = [sys.executable, "-m", "dmsae_ray.cli", *map(str, arguments)]
    return subprocess.run(
        command,
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=timeout,
        env=environment(),
        stdin=subprocess.DEVNULL,
    )


@pytest.fixture(scope="session")
def finished_sweep(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The output folder of the small sweep, run once without disturbance, for all processes of `pytest -n`."""
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "finished"
    with FileLock(f"{folder}.lock"):
        if not (folder / "stdout.txt").exists():
            folder.mkdir(exist_ok=True)
            done = dmsae("sweep", write_config(folder))
            assert done.returncode == 0, done.stdout + done.stderr
            (folder / "stdout.txt").write_text(done.stdout)
    return folder


def sweep_folder(run: Path) -> Path:
    """The folder of the small sweep below a test's folder."""
    (found,) = (run / "runs" / "sweeps").glob("small-*")
    return found
