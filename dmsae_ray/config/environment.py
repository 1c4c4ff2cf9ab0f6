"""What the libraries read from the environment, set before any of them is imported."""

import logging
import os
import shlex
import shutil
import sys
import warnings
from pathlib import Path

_QUIET = {
    "RAY_AIR_NEW_OUTPUT": "0",  # Tune's own tables; `verbose=0` silences the old output only
    # The processes of a trial come in handfuls, and the raylet's warning of that passes by `log_to_driver`.
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
NEEDED = {
    "RAY_TRAIN_V2_ENABLED": "1",
    # A report waits for the next look at the workers' health: 2 s by default, as long as a small cycle takes.
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.25",
    "RAY_USAGE_STATS_ENABLED": "0",
}
"""What every process of a run needs, on every node."""


def shell_command(program: str, *arguments: object) -> str:
    """A line to be pasted into a shell; a program of this virtual environment is named so that it is found."""
    beside = Path(sys.executable).with_name(program)
    if shutil.which(program) is None and beside.is_file():
        folder = Path.cwd()
        program = str(beside.relative_to(folder) if beside.is_relative_to(folder) else beside)
    return shlex.join([program, *map(str, arguments)])


def set_environment(verbose: bool) -> None:
    """Set what is not set yet. Call it before the first import of Ray, transformers or MLflow."""
    for name, value in {**NEEDED, **({} if verbose else _QUIET)}.items():
        os.environ.setdefault(name, value)
    if not verbose:
        warnings.filterwarnings("ignore", category=FutureWarning)
        for name in ("ray", "ray.data", "ray.tune", "ray.train", "transformers", "mlflow", "alembic", "datasets"):
            logging.getLogger(name).setLevel(logging.ERROR)
