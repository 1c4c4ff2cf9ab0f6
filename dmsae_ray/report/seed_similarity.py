"""How similar the distilled cores of the seeds of a setting are, without what they share by construction."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import torch
from torch import Tensor

from dmsae_ray.distill import Core, chance_mcc, load_core, match_rows, same_rows, shared_rows
from dmsae_ray.errors import DataError
from dmsae_ray.report.score_curves import cycle_store
from dmsae_ray.results import CORE_FILE, TrialResult
from dmsae_ray.sae import encoder_rows

DRAWS = 100
"""Draws behind a chance level."""
FEW_DRAWS, LARGE_CORE = 20, 256
"""Draws where a core is larger than that: the time of a matching grows with the cube of its size."""
SAE_FOLDER = "sae"


@dataclass(frozen=True)
class Consistency:
    """PW-MCC of the distilled cores over all pairs of seeds: mean signed cosine of rows matched one to one.

    Rows that both cores of a pair share by construction are left out. Of a pair that shares all rows of a core nothing
    is left to compare.

    Attributes:
        mean: Mean over the pairs that can be compared; None if none can.
        low: Lowest value of a pair.
        high: Highest value of a pair.
        chance: The same for random subsets, of the same sizes, of the pools from which the last cores were selected:
            mean over the draws. None where the SAEs cannot be read on this machine.
        chance_low: What 2.5% of the draws are below.
        chance_high: What 2.5% of the draws are above.
        pairs: Number of pairs that are compared.
        not_comparable: Number of pairs of which nothing is left.
        matched: Rows that are matched, summed over the pairs.
        shared: Rows that are left out, summed over the pairs; of each pair, those of the core that has fewer.
    """

    mean: float | None
    low: float | None
    high: float | None
    chance: float | None
    chance_low: float | None
    chance_high: float | None
    pairs: int
    not_comparable: int
    matched: int
    shared: int


def consistency(results: Sequence[TrialResult]) -> Consistency | None:
    """Return how similar the distilled cores of the replicas are; None with fewer than two cores that are not empty."""
    cores: list[tuple[TrialResult, Core]] = []
    for result in results:
        path = None if result.folder is None else result.folder / CORE_FILE
        if path is not None and path.is_file() and len(core := load_core(path)):
            cores.append((result, core))
    if len(cores) < 2:
        return None
    pools = [_pool(result) for result, _ in cores]
    values: list[float] = []
    chances: list[Tensor | None] = []
    matched = shared = not_comparable = 0
    for i, j in combinations(range(len(cores)), 2):
        a, b = cores[i][1], cores[j][1]
        of_a, of_b = shared_rows(a, b)
        shared += min(int(of_a.sum()), int(of_b.sum()))
        left = a.rows[~of_a], b.rows[~of_b]
        match = match_rows(*left)
        if not len(match.cosine):
            not_comparable += 1
            continue
        values.append(match.mean)
        matched += len(match.cosine)
        chances.append(_chance(pools[i], pools[j], (len(left[0]), len(left[1])), seed=len(values)))
    known = [draws for draws in chances if draws is not None]
    draws = None
    if values and len(known) == len(values):
        fewest = min(map(len, known))
        draws = torch.stack([of_pair[:fewest] for of_pair in known]).mean(dim=0)
    return Consistency(
        mean=sum(values) / len(values) if values else None,
        low=min(values, default=None),
        high=max(values, default=None),
        chance=None if draws is None else float(draws.mean()),
        chance_low=None if draws is None else float(draws.quantile(0.025)),
        chance_high=None if draws is None else float(draws.quantile(0.975)),
        pairs=len(values),
        not_comparable=not_comparable,
        matched=matched,
        shared=shared,
    )


def _pool(result: TrialResult) -> Tensor | None:
    """Return the encoder rows of the pool of the last cycle; None where its SAE is not on this machine."""
    assert result.folder is not None, "its core was read from there"
    cycles = cycle_store(result.folder.parent.parent, None).local
    key, size = result.last.key, result.last.pool
    if cycles is None or not key or not (cycles / key / SAE_FOLDER).is_dir():
        return None
    try:
        return encoder_rows(cycles / key / SAE_FOLDER, size)
    except DataError:
        return None


def _chance(a: Tensor | None, b: Tensor | None, sizes: tuple[int, int], seed: int) -> Tensor | None:
    if a is None or b is None or a.shape[1] != b.shape[1]:
        return None
    of_a, of_b = same_rows(a, b)
    draws = DRAWS if max(sizes) <= LARGE_CORE else FEW_DRAWS
    return chance_mcc(a[~of_a], b[~of_b], sizes, draws, seed)
