"""A training stopped between two steps, saved as the file that Ray Train keeps and gives back."""

import os
import platform
import re
import shutil
import tempfile
from dataclasses import fields
from pathlib import Path

import torch

from dmsae_ray.distill import CycleCheckpoint
from dmsae_ray.errors import DataError, one_line

FILE = "training.pt"
_PREFIX = "dmsae-checkpoint-"


def new_checkpoint_folder() -> Path:
    """Make a folder on the local disk for a checkpoint that is to be uploaded, which removes it.

    A worker that is killed leaves its own, of the size of an SAE and its optimizer: those are removed first.
    """
    own = f"{_PREFIX}{platform.node()}-"  # machines may share the folder, and a number means nothing on another one
    for left in Path(tempfile.gettempdir()).glob(f"{own}*"):
        number = re.fullmatch(r"(\d+)-[^-]+", left.name.removeprefix(own))  # not of a machine whose name is longer
        if number is not None and not _runs(int(number[1])):
            shutil.rmtree(left, ignore_errors=True)
    return Path(tempfile.mkdtemp(prefix=f"{own}{os.getpid()}-"))


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:  # it is another user's
        return True
    return True


def save_checkpoint(state: CycleCheckpoint, folder: Path) -> None:
    """Write `state` into `folder`; tensors that are still in use are written with their present values."""
    values = {field.name: getattr(state, field.name) for field in fields(state)}
    torch.save(values, folder / FILE)


def load_checkpoint(folder: Path) -> CycleCheckpoint:
    """Load what `save_checkpoint` wrote; only tensors and plain values are unpickled.

    Raises:
        DataError: The file is missing, truncated or of another kind.
    """
    try:
        return CycleCheckpoint(**torch.load(folder / FILE, map_location="cpu", weights_only=True))
    except Exception as error:  # torch.load raises many types for a damaged file
        raise DataError(
            f"checkpoint {folder / FILE} is damaged ({one_line(error)}); delete its folder to start the cycle again"
        ) from None
