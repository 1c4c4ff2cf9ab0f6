"""How alike two cores are when their latents have no common identity: other seeds, other data, other layers' widths.

Song et al. 2025 (arXiv 2505.20254): the pairwise dictionary mean correlation coefficient, PW-MCC, is the mean cosine
over the best one-to-one matching of two dictionaries' directions.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from dmsae_ray.errors import DataError


@dataclass(frozen=True)
class Match:
    """One-to-one matching of n = min(a, b) rows: left [n], right [n] int64 row numbers, cosine [n] float64."""

    left: Tensor
    right: Tensor
    cosine: Tensor

    @property
    def mean(self) -> float:
        """Mean cosine of the matched pairs: MCC."""
        return float(self.cosine.mean()) if len(self.cosine) else float("nan")

    def share_above(self, cosine: float) -> float:
        """Share of the matched pairs whose cosine is at least `cosine`."""
        return float((self.cosine >= cosine).double().mean()) if len(self.cosine) else float("nan")


def cosines(a: Tensor, b: Tensor) -> Tensor:
    """Cosine of every row of a [n, d] with every row of b [p, d], float64 [n, p]; rows of norm 0 have cosine 0."""
    if a.ndim != 2 or b.ndim != 2 or a.shape[1] != b.shape[1]:
        raise DataError(f"cores: shapes {tuple(a.shape)} and {tuple(b.shape)} have no common width")
    unit = [torch.nn.functional.normalize(t.detach().to("cpu", torch.float64), dim=1, eps=1e-300) for t in (a, b)]
    return unit[0] @ unit[1].T


def match_rows(a: Tensor, b: Tensor, *, absolute: bool = False) -> Match:
    """The one-to-one matching of rows of a [n, d] and b [p, d] with the largest total cosine (Hungarian algorithm).

    `absolute` matches by |cosine|, as the identifiability results behind MCC allow; latents of an SAE fire on one side
    only, so the default keeps the sign.
    """
    cosine = cosines(a, b)
    cosine = cosine.abs() if absolute else cosine
    left, right = linear_sum_assignment(-cosine.numpy())
    rows, columns = torch.from_numpy(np.asarray(left)), torch.from_numpy(np.asarray(right))
    return Match(rows, columns, cosine[rows, columns])


def pw_mcc(dictionaries: Sequence[Tensor], *, absolute: bool = True) -> float:
    """PW-MCC (Song et al. 2025): MCC averaged over all pairs of dictionaries [n_i, d]; NaN with fewer than two."""
    pairs = [
        match_rows(a, b, absolute=absolute).mean for i, a in enumerate(dictionaries) for b in dictionaries[i + 1 :]
    ]
    return float(np.mean(pairs)) if pairs else float("nan")


def mean_best_cosine(a: Tensor, b: Tensor) -> float:
    """Mean over the rows of a [n, d] of the best cosine with any row of b [p, d]. Not symmetric; NaN without rows.

    Rows of b may be used more than once, so this is an upper bound of the matched mean when n <= p.
    """
    cosine = cosines(a, b)
    return float(cosine.max(dim=1).values.mean()) if cosine.numel() else float("nan")
