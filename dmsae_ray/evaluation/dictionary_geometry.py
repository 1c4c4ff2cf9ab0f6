"""How redundant a dictionary is: how near the decoder row of each latent is to that of another."""

from dataclasses import dataclass

import numpy as np
import torch
from scipy.integrate import trapezoid
from scipy.special import betainc
from torch import Tensor
from torch.nn.functional import normalize

_ELEMENTS = 1 << 26
"""Cosines that exist at a time: 268 MB in float32."""
_GRID = 100_001
"""Points of the integral behind a chance level."""


@dataclass(frozen=True)
class Nearness:
    """For each decoder row of a set, the largest cosine with another row; cosines keep their sign.

    Attributes:
        rows: number of rows.
        others: number of rows that each is compared with.
        mean: mean of the largest cosines.
        median: their median (the lower one of two).
        p95: what 95% of them do not exceed (the next lower one).
        at_least_07: share of the rows whose largest cosine is 0.7 or more.
        at_least_09: share of the rows whose largest cosine is 0.9 or more.
        chance: what the mean is for independent uniform directions, see `chance_nearness`.
    """

    rows: int
    others: int
    mean: float
    median: float
    p95: float
    at_least_07: float
    at_least_09: float
    chance: float


@dataclass(frozen=True)
class DictionaryGeometry:
    """How near decoder rows are to each other. None where a set or what it is compared with has no rows.

    Attributes:
        all: each row, compared with all others.
        core: each row of the core, compared with the others of the core.
        core_to_rest: each row of the core, compared with all rows outside it.
        left_out: rows that were not looked at, because their latent never fires.
    """

    all: Nearness | None
    core: Nearness | None
    core_to_rest: Nearness | None
    left_out: int


@torch.no_grad()
def decoder_geometry(W_dec: Tensor, n_core: int, live: Tensor | None = None) -> DictionaryGeometry:
    """Return how near the decoder rows of an SAE are to each other.

    Args:
        W_dec: [m, d_model]; the rows need no unit norm. The cosines are computed on its device, block by block: beside
            the rows, memory does not grow with m.
        n_core: the core is rows 0..n_core-1.
        live: bool [m], the latents that are looked at: dead ones have directions that nothing keeps apart or together.
            None: all.
    """
    live = torch.ones(len(W_dec), dtype=torch.bool) if live is None else live
    rows, c, d = normalize(W_dec[live.to(W_dec.device)].float()), int(live[:n_core].sum()), W_dec.shape[1]
    to_core, to_rest = _nearest(rows, c)
    n = len(rows)
    return DictionaryGeometry(
        all=_nearness(torch.maximum(to_core, to_rest), n - 1, d),
        core=_nearness(to_core[:c], c - 1, d),
        core_to_rest=_nearness(to_rest[:c], n - c, d),
        left_out=len(W_dec) - n,
    )


def _nearest(rows: Tensor, c: int) -> tuple[Tensor, Tensor]:
    """Return, for unit rows [n, d], the largest cosine with another one of the first c and of the others.

    Both are float32 [n] on the CPU, -inf where there is no other row.
    """
    n = len(rows)
    found = torch.full((2, n), -torch.inf)
    step = max(1, _ELEMENTS // max(1, n))
    for first in range(0, n, step):
        cosines = rows[first : first + step] @ rows.T
        own = torch.arange(len(cosines), device=rows.device)
        cosines[own, first + own] = -torch.inf
        for side, part in enumerate((cosines[:, :c], cosines[:, c:])):
            if part.shape[1]:
                found[side, first : first + step] = part.amax(dim=1).cpu()
    return found[0], found[1]


def _nearness(largest: Tensor, others: int, d: int) -> Nearness | None:
    n = len(largest)
    if n == 0 or others < 1:
        return None
    ordered = largest.double().sort().values
    return Nearness(
        rows=n,
        others=others,
        mean=float(ordered.mean()),
        median=float(ordered[(n - 1) // 2]),
        p95=float(ordered[int(0.95 * (n - 1))]),
        at_least_07=float((ordered >= 0.7).double().mean()),
        at_least_09=float((ordered >= 0.9).double().mean()),
        chance=chance_nearness(d, others),
    )


def chance_nearness(d: int, others: int) -> float:
    """Return the expected largest cosine of a direction with n others, all of them uniform on the sphere in R^d.

    The cosines with a given row are independent, and cosine^2 is Beta(1/2, (d - 1)/2). With F their distribution, the
    expectation of the largest is 1 - integral of F(t)^n over t from -1 to 1.

    Args:
        d: dimension, at least 2.
        others: n, at least 1.
    """
    t = np.linspace(0.0, 1.0, _GRID)
    above = 0.5 * betainc((d - 1) / 2, 0.5, 1 - t * t)  # P(cosine > t) for t >= 0
    with np.errstate(divide="ignore"):
        powers = np.exp(others * np.log1p(-above)) + np.exp(others * np.log(above))  # F(t)^n + F(-t)^n
    return float(1 - trapezoid(powers, t))
