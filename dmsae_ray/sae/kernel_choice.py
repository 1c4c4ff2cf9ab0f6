"""Whether the training step of an SAE can use the Triton kernels of this room."""

import logging
from functools import cache
from types import ModuleType
from typing import Any

import torch

from dmsae_ray.errors import one_line
from dmsae_ray.sae.dictionary import MatryoshkaSAE

_log = logging.getLogger(__name__)


def kernels_for(sae: MatryoshkaSAE) -> ModuleType | None:
    """Return the module `kernels` if it works for the rows of `sae` (float32 on CUDA), otherwise None."""
    if sae.W_dec.device.type != "cuda" or sae.W_dec.dtype != torch.float32:
        return None
    return _tried(sae.W_dec.device, sae.d_model)


@cache
def _tried(device: torch.device, width: int) -> ModuleType | None:
    """Return the module if each of its kernels runs on `device`; otherwise log one warning and return None."""
    try:
        from dmsae_ray.sae import kernels

        if width > kernels.WIDEST_ROW:
            raise ValueError(f"rows of {width} numbers are wider than {kernels.WIDEST_ROW}")
        rows, gradient, zero = torch.ones(1, width, device=device), torch.ones(1, width, device=device), 0.0
        index = torch.zeros(1, dtype=torch.int64, device=device)
        kernels.weighted_bags(rows, index, torch.arange(2, device=device), rows[0, :1], gradient)
        kernels.project_out(gradient, rows, 1e-6)
        moments = (torch.zeros_like(rows), torch.zeros_like(rows))
        how: dict[str, Any] = {"step": 1, "lr": zero, "betas": (0.9, 0.999), "eps": 1e-8, "unit": True}
        flag = torch.zeros((), device=device)
        kernels.adam(rows, gradient, *moments, **how, divisor=flag + 1, skip=flag)
        torch.cuda.synchronize(device)
    except Exception as error:  # no Triton, no C compiler for its launchers, an unknown GPU
        _log.warning("%s: steps take longer without Triton's kernels: %s", device, one_line(error))
        return None
    return kernels
