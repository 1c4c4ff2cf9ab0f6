"""How similar two cores are if their latents have no common identity: other seeds, other data, other layers.

Song et al. 2025 (arXiv 2505.20254): the pairwise dictionary mean correlation coefficient, PW-MCC, is the mean cosine
over the best one-to-one matching of the directions of two dictionaries. Two replicas may share rows by construction:
both were trained around the same core, or begin from the same given SAE. Such rows say nothing of their similarity, and
`shared_rows` finds them, so that they can be left out.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from dmsae_ray.distill.core import Core
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


def partners(a: Tensor, b: Tensor) -> Tensor:
    """Return the cosine of each row of a [n, d] with its partner among those of b [p, d], one to one: float64 [n].

    NaN for a row without a partner, where b has fewer rows.

    Raises:
        DataError: a and b are not matrices of the same width.
    """
    match = match_rows(a, b)
    found = torch.full((len(a),), float("nan"), dtype=torch.float64)
    found[match.left] = match.cosine
    return found


def mixed_rows(pool: Tensor, n: int, draw: int) -> Tensor:
    """Return n rows that mean nothing: each takes each coordinate from another row of a pool [p, d], drawn at random.

    What all rows of the pool have in common stays (a direction that all share, coordinates of large variance), and
    what is one row's own goes. It is what chance is for `partners`.

    Args:
        pool: [p, d].
        n: number of rows.
        draw: the same draw of the same size takes the same coordinates.

    Returns:
        [n, d].
    """
    generator = torch.Generator().manual_seed(draw)
    rows = torch.randint(len(pool), (n, pool.shape[1]), generator=generator)
    return pool.gather(0, rows)


def pw_mcc(dictionaries: Sequence[Tensor], *, absolute: bool = False) -> float:
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


def same_rows(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Return which rows of a [n, d] are bit for bit in b [p, d], and which rows of b are in a: bool [n] and [p]."""
    bits = [[row.tobytes() for row in t.detach().to("cpu", torch.float32).contiguous().numpy()] for t in (a, b)]
    both = set(bits[0]) & set(bits[1])
    of_a, of_b = (torch.tensor([row in both for row in rows], dtype=torch.bool) for rows in bits)
    return of_a, of_b


def shared_rows(a: Core, b: Core) -> tuple[Tensor, Tensor]:
    """Return which rows two cores share by construction: bool [n] of the rows of a, bool [p] of those of b.

    A row is shared if the other core has one that is bit for bit the same (frozen rows are copied, and the origin is
    not known of every file), or rows that the same training learned: two choices from one SAE say nothing of what
    another training finds.
    """
    of_a, of_b = same_rows(a.rows, b.rows)
    keys = [{origin.key for origin in core.origins if origin is not None} for core in (a, b)]
    both = keys[0] & keys[1]
    for core, found in ((a, of_a), (b, of_b)):
        found |= torch.tensor([origin is not None and origin.key in both for origin in core.origins], dtype=torch.bool)
    return of_a, of_b


def chance_mcc(pool_a: Tensor, pool_b: Tensor, sizes: tuple[int, int], draws: int, seed: int = 0) -> Tensor | None:
    """Return what the MCC is for random subsets of the pools from which two cores were selected.

    Args:
        pool_a: [n, d], rows of the pool of the first core.
        pool_b: [p, d], those of the second.
        sizes: how many rows are drawn of each, without replacement.
        draws: number of draws.
        seed: seed of the draws.

    Returns:
        float64 [draws]; None if a pool is smaller than what is to be drawn of it.
    """
    if sizes[0] > len(pool_a) or sizes[1] > len(pool_b):
        return None
    cosine, generator = cosines(pool_a, pool_b).numpy(), torch.Generator().manual_seed(seed)
    found = torch.zeros(draws, dtype=torch.float64)
    for draw in range(draws):
        rows, columns = (
            torch.randperm(len(pool), generator=generator)[:size].numpy()
            for pool, size in zip((pool_a, pool_b), sizes, strict=True)
        )
        part = cosine[np.ix_(rows, columns)]
        found[draw] = float(part[linear_sum_assignment(-part)].mean())
    return found
