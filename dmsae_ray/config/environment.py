"""What Ray and other libraries are told: environment variables, set before any of them is imported, and names."""

import logging
import os
import shlex
import shutil
import sys
import warnings
from pathlib import Path

_QUIET = {
    "RAY_AIR_NEW_OUTPUT": "0",  # Tune's own tables; `verbose=0` silences the old output only
    # A trial starts several processes at once; the raylet's warning about that appears in spite of `log_to_driver`.
    "RAY_DEDUP_LOGS_SKIP_REGEX": "worker processes have been started on node",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_DATA_DISABLE_PROGRESS_BARS": "1",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_AUTO_CALLBACK_SYNCER": "1",
    "TRANSFORMERS_VERBOSITY": "error",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "HF_HUB_VERBOSITY": "error",
    "TOKENIZERS_PARALLELISM": "false",
    "PYTHONWARNINGS": "ignore",
}
_LOUD = ("ray", "ray.data", "ray.tune", "ray.train", "transformers", "mlflow", "alembic", "datasets", "matplotlib")
"""Loggers of which only errors are shown. That of matplotlib says where it keeps fonts if the home is read-only."""
NEEDED = {
    "RAY_TRAIN_V2_ENABLED": "1",
    # A report waits for the next health check of the workers: by default 2 s, as long as a small cycle takes.
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.25",
    "RAY_USAGE_STATS_ENABLED": "0",
    # A call behind the end of a session is a mistake; it must not start another cluster.
    "RAY_ENABLE_AUTO_CONNECT": "0",
}
"""Variables that every process of a run needs, on every node."""

ON_THIS_MACHINE = {
    # A process for each attempt at a trial, that waits for a cloud to take its node away.
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
}
"""What a Ray cluster that is this machine alone can do without."""

HEAD = "node:__internal_head__"
"""The resource by which Ray marks the head node of a cluster, 1 in all."""
ON_HEAD = {HEAD: 0.001}
"""Resources of an actor that must outlive the loss of any node but the head; up to a thousand of them fit."""


def shell_command(program: str, *arguments: object) -> str:
    """Return a command line to paste into a shell.

    A program of this virtual environment that is not on the PATH is given by its path.
    """
    beside = Path(sys.executable).with_name(program)
    if shutil.which(program) is None and beside.is_file():
        folder = Path.cwd()
        program = str(beside.relative_to(folder) if beside.is_relative_to(folder) else beside)
    return shlex.join([program, *map(str, arguments)])


def set_environment(verbose: bool) -> None:
    """Set the variables that are not set yet. Call it before the first import of Ray, transformers or MLflow.

    Args:
        verbose: keep the libraries' own output; False switches off most of it.
    """
    for name, value in {**NEEDED, **({} if verbose else _QUIET)}.items():
        os.environ.setdefault(name, value)
    if not verbose:
        warnings.filterwarnings("ignore", category=FutureWarning)
        for name in _LOUD:
            logging.getLogger(name).setLevel(logging.ERROR)
