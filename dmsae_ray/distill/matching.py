"""How similar two cores are if their latents have no common identity: other seeds, other data, other layers.

Song et al. 2025 (arXiv 2505.20254): the pairwise dictionary mean correlation coefficient, PW-MCC, is the mean cosine
over the best one-to-one matching of the directions of two dictionaries.
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
    """A one-to-one matching of n = min(a, b) rows of two matrices with a and b rows.

    Attributes:
        left: int64 [n], row numbers in the first matrix.
        right: int64 [n], row numbers in the second matrix.
        cosine: float64 [n], cosine of each pair.
    """

    left: Tensor
    right: Tensor
    cosine: Tensor

    @property
    def mean(self) -> float:
        """Mean cosine of the matched pairs, the MCC; NaN without pairs."""
        return float(self.cosine.mean()) if len(self.cosine) else float("nan")

    def share_above(self, cosine: float) -> float:
        """Return the share of the matched pairs whose cosine is at least `cosine`; NaN without pairs."""
        return float((self.cosine >= cosine).double().mean()) if len(self.cosine) else float("nan")


def cosines(a: Tensor, b: Tensor) -> Tensor:
    """Return the cosine of every row of a [n, d] with every row of b [p, d]: float64 [n, p]; 0 for rows of norm 0.

    Raises:
        DataError: a and b are not matrices of the same width.
    """
    if a.ndim != 2 or b.ndim != 2 or a.shape[1] != b.shape[1]:
        raise DataError(f"cores: shapes {tuple(a.shape)} and {tuple(b.shape)} have no common width")
    unit = [torch.nn.functional.normalize(t.detach().to("cpu", torch.float64), dim=1, eps=1e-300) for t in (a, b)]
    return unit[0] @ unit[1].T


def match_rows(a: Tensor, b: Tensor, *, absolute: bool = False) -> Match:
    """Return the one-to-one matching of rows with the largest total cosine (Hungarian algorithm).

    Args:
        a: [n, d].
        b: [p, d].
        absolute: match by |cosine|, as the identifiability results behind MCC allow. Latents of an SAE fire on one side
            only, so the default keeps the sign.

    Raises:
        DataError: a and b are not matrices of the same width.
    """
    cosine = cosines(a, b)
    cosine = cosine.abs() if absolute else cosine
    left, right = linear_sum_assignment(-cosine.numpy())
    rows, columns = torch.from_numpy(np.asarray(left)), torch.from_numpy(np.asarray(right))
    return Match(rows, columns, cosine[rows, columns])


def pw_mcc(dictionaries: Sequence[Tensor], *, absolute: bool = True) -> float:
    """Return the PW-MCC (Song et al. 2025), the MCC averaged over all pairs of dictionaries.

    Args:
        dictionaries: matrices [n_i, d].
        absolute: as in `match_rows`.

    Returns:
        The mean; NaN with fewer than two dictionaries.

    Raises:
        DataError: two dictionaries have different widths.
    """
    pairs = [
        match_rows(a, b, absolute=absolute).mean for i, a in enumerate(dictionaries) for b in dictionaries[i + 1 :]
    ]
    return float(np.mean(pairs)) if pairs else float("nan")


def mean_best_cosine(a: Tensor, b: Tensor) -> float:
    """Return the mean, over the rows of a [n, d], of the best cosine with any row of b [p, d]; NaN without rows.

    It is not symmetric. Rows of b may be used more than once, so it is an upper bound of the matched mean if n <= p.
    """
    cosine = cosines(a, b)
    return float(cosine.max(dim=1).values.mean()) if cosine.numel() else float("nan")
