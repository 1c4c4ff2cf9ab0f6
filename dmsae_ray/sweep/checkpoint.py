"""A training stopped between two steps, saved as the file that Ray Train keeps and gives back."""

from dataclasses import fields
from pathlib import Path

import torch

from dmsae_ray.distill import CycleCheckpoint
from dmsae_ray.errors import DataError, one_line

FILE = "training.pt"


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
