"""SAEBench's environment: a virtual environment of its own on each machine, made once from a lock file.

SAEBench needs numpy 1 and an old `datasets`, which Ray's and MLflow's processes must not have.
"""

import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

from dmsae_ray.errors import ConfigError, one_line
from dmsae_ray.files import alone, cache_folder, replacing

LOCK = Path(__file__).with_name("requirements.txt")
_READY, _LOG = "ready.json", "install.log"
_PYTHONS = ((3, 11), (3, 12))
"""Versions of Python for which numpy 1.26 is built."""
PYTHON_VARIABLE = "DMSAE_SAEBENCH_PYTHON"


def environment_folder() -> Path:
    """Return where this machine's environment is or will be; another lock file or torch is another environment."""
    key = hashlib.sha256(LOCK.read_bytes() + _torch().encode() + str(sys.version_info[:2]).encode()).hexdigest()
    return cache_folder() / f"saebench-{key[:12]}"


def ready_python() -> Path | None:
    """Return the Python of this machine's environment; None if it was not made yet."""
    folder = environment_folder()
    python = folder / "bin" / "python"
    return python if (folder / _READY).is_file() and python.exists() else None


def make_environment(say: Callable[[str], None] = print) -> Path:
    """Make this machine's environment unless it is there; return its Python. Processes of a machine make it once.

    Args:
        say: called with a line before the long part begins.

    Raises:
        ConfigError: it cannot be made; one line, which names the log.
    """
    python = ready_python()
    if python is not None:
        return python
    folder = environment_folder()
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        return _make(folder, say)
    except OSError as error:
        raise ConfigError(f"SAEBench's environment cannot be made in {folder}: {one_line(error)}") from None


def _make(folder: Path, say: Callable[[str], None]) -> Path:
    with alone(folder.with_suffix(".lock")):
        python = ready_python()
        if python is not None:
            return python
        base = _base_python()
        say(f"making SAEBench's environment in {folder}: some 2 GB, 2 to 10 min, once on this machine")
        shutil.rmtree(folder, ignore_errors=True)
        log = folder.with_suffix(".log")
        python = folder / "bin" / "python"
        # The lock file exactly as it was tested; then torch with what it needs besides, on CUDA a lot.
        pip = [
            str(python),
            "-m",
            "pip",
            "install",
            "--disable-pip-version-check",
            "--no-input",
            "--progress-bar",
            "off",
        ]
        steps = (
            [base, "-m", "venv", str(folder)],
            [*pip, "--no-deps", "-r", str(LOCK)],
            [*pip, f"torch=={_torch()}"],
            [str(python), "-c", "import torch, sae_bench.evals.core.main"],
        )
        try:
            with log.open("w", encoding="utf-8") as file:
                for step in steps:
                    file.write(f"\n$ {' '.join(step)}\n")
                    file.flush()
                    done = subprocess.run(
                        step, stdout=file, stderr=file, stdin=subprocess.DEVNULL, env=inner_environment()
                    )
                    if done.returncode != 0:
                        raise ConfigError(_told(step, log))
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        with replacing(folder / _READY) as temporary:
            temporary.write_text(json.dumps({"torch": _torch(), "lock": LOCK.name}), encoding="utf-8")
        return python


def inner_environment() -> dict[str, str]:
    """Return the variables for processes of SAEBench's environment: ours, without what leads to our packages."""
    kept = {
        name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV")
    }
    return {
        **kept,
        "PYTHONNOUSERSITE": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "WANDB_MODE": "disabled",
        # Of models that TransformerLens gives by its bridge, SAEBench's checks of types know nothing.
        "JAXTYPING_DISABLE": "1",
    }


def _torch() -> str:
    return version("torch").partition("+")[0]


def _base_python() -> str:
    """Return a Python for which numpy 1 is built.

    Raises:
        ConfigError: there is none.
    """
    given = os.environ.get(PYTHON_VARIABLE)
    if given:
        if shutil.which(given) is None:
            raise ConfigError(f"{PYTHON_VARIABLE} is '{given}'; there is no such program")
        return given
    if sys.version_info[:2] in _PYTHONS:
        return sys.executable
    for major, minor in reversed(_PYTHONS):
        found = shutil.which(f"python{major}.{minor}")
        if found:
            return found
    raise ConfigError(
        f"SAEBench needs numpy 1, which is not built for Python {sys.version_info[0]}.{sys.version_info[1]}: install "
        f"Python 3.11 or 3.12, and name it in {PYTHON_VARIABLE}"
    )


def _told(step: list[str], log: Path) -> str:
    what = {"venv": "python -m venv failed", "pip": "pip failed"}.get(step[2], "it cannot be imported")
    said = [line.strip() for line in log.read_text(encoding="utf-8", errors="replace").splitlines()]
    errors = [
        line for line in said if line.lower().startswith(("error", "importerror", "modulenotfounderror", "oserror"))
    ]
    last = (errors or [line for line in said if line and not line.startswith("$")] or ["nothing was said"])[-1]
    return f"SAEBench's environment cannot be made: {what}: {last[:200]} (all of it: {log})"
