"""How far two orders of the same latents agree."""

import numpy as np
from scipy.stats import rankdata
from torch import Tensor


def rank_correlation(a: Tensor, b: Tensor) -> float:
    """Return Spearman's rank correlation of a and b, each [n]; ties share their mean rank. NaN if one is constant."""
    ranks = [rankdata(t.double().numpy()) for t in (a, b)]
    if any(r.min() == r.max() for r in ranks):
        return float("nan")
    return float(np.corrcoef(ranks[0], ranks[1])[0, 1])
