"""A training stopped between two steps, as the files that Ray Train keeps and hands back."""

from dataclasses import fields
from pathlib import Path

import torch

from dmsae_ray.distill import CycleCheckpoint
from dmsae_ray.errors import DataError, one_line

FILE = "training.pt"


def save_checkpoint(state: CycleCheckpoint, folder: Path) -> None:
    """Write `state` into `folder`. Its tensors may be live; they are written as they are now."""
    values = {field.name: getattr(state, field.name) for field in fields(state)}
    torch.save(values, folder / FILE)


def load_checkpoint(folder: Path) -> CycleCheckpoint:
    """The inverse; nothing is unpickled but tensors and plain values.

    Raises:
        DataError: the file is missing, truncated or something else.
    """
    try:
        return CycleCheckpoint(**torch.load(folder / FILE, map_location="cpu", weights_only=True))
    except Exception as error:  # torch.load raises half a dozen kinds for a damaged file
        raise DataError(
            f"checkpoint {folder / FILE} is damaged ({one_line(error)}); delete its folder to start the cycle again"
        ) from None
