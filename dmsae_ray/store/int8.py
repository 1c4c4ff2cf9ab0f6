"""Rows as int8 with one scale per token: half the bytes of bfloat16.

A residual stream has a few dimensions that are far larger than the rest and constant ones; a scale per token alone
would spend its 8 bits on those. So the columns are first centred and scaled to unit deviation over the shard: x[t, i] =
centre[i] + spread[i] * scale[t] * q[t, i], with q in -127..127 and scale[t] the token's largest |.| / 127.
"""

import torch
from torch import Tensor

_CHUNK = 4096  # rows that are converted to float32 at a time
_CACHED = 32  # rows that stay in a core's cache from one operation to the next


def quantise(x: Tensor) -> dict[str, Tensor]:
    """Quantise rows [n, d] of any float dtype to int8.

    Returns:
        `x` int8 [n, d], `scale` [n], `centre` [d] and `spread` [d]; the last three are float32.
    """
    n, d = x.shape
    total, squares = torch.zeros(d, dtype=torch.float64), torch.zeros(d, dtype=torch.float64)
    for rows in torch.split(x, _CHUNK):
        total += rows.double().sum(0)
    centre = (total / max(n, 1)).float()
    for rows in torch.split(x, _CHUNK):
        squares += (rows.double() - centre).square().sum(0)
    spread = (squares / max(n, 1)).sqrt().float()
    spread = torch.where(spread > 0, spread, torch.ones_like(spread))
    q, scale = torch.empty(n, d, dtype=torch.int8), torch.empty(n)
    for start in range(0, n, _CHUNK):
        rows = (x[start : start + _CHUNK].float() - centre) / spread
        largest = rows.abs().amax(1) / 127
        scale[start : start + _CHUNK] = largest
        q[start : start + _CHUNK] = (rows / torch.where(largest > 0, largest, 1.0)[:, None]).round().to(torch.int8)
    return {"x": q, "scale": scale, "centre": centre, "spread": spread}


def dequantise(parts: dict[str, Tensor], out: Tensor | None = None) -> Tensor:
    """Return the rows of a quantised shard in float32 [n, d].

    Each operation rounds once, so a row does not depend on the rows beside it.

    Args:
        parts: what `quantise` returned; `x` and `scale` may be a part of its rows.
        out: float32 [n, d], where the rows are written; None: a new tensor.
    """
    out = torch.empty(parts["x"].shape) if out is None else out
    for start in range(0, len(out), _CACHED):
        rows = slice(start, start + _CACHED)
        part = out[rows].copy_(parts["x"][rows])
        part.mul_(parts["scale"][rows, None]).mul_(parts["spread"]).add_(parts["centre"])
    return out
