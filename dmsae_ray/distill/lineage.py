"""The identity of latents across cycles.

Frozen rows make identity exact: a latent is the same latent if its encoder row was passed on.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple


class LineageId(NamedTuple):
    """Where a latent was born.

    Attributes:
        cycle: the cycle whose SAE learned its encoder row.
        latent: its row number in that SAE.
    """

    cycle: int
    latent: int

    def __str__(self) -> str:
        return f"{self.cycle}.{self.latent}"


class Origin(NamedTuple):
    """Where an encoder row was learned, told apart from all other trainings: replicas may share a cycle.

    Attributes:
        key: key of the cycle that learned it (`cycle_settings.cycle_key`), or of the given SAE it was taken from.
        latent: its row number in that SAE.
    """

    key: str
    latent: int


Lineage = tuple[LineageId, ...]
Origins = tuple[Origin | None, ...]


@dataclass(frozen=True)
class Overlap:
    """How two successive cores C_{l-1} and C_l compare. Ratios with denominator 0 are None.

    Attributes:
        carried: |C_l ∩ C_{l-1}|.
        carryover: carried / |C_{l-1}|.
        chance: |C_l| / |pool|, the carryover of a core drawn from the pool at random.
        new: |C_l| - carried.
        jaccard: carried / |C_l ∪ C_{l-1}|.
    """

    carried: int
    carryover: float | None
    chance: float
    new: int
    jaccard: float | None


def descend(previous: Sequence[LineageId], cycle: int, selected: Sequence[int]) -> Lineage:
    """Return the lineage ids of the latents `selected` from the SAE of cycle `cycle`.

    Its rows 0..c-1 have the ids `previous`. An index below c keeps its id; any other latent was born in this cycle.
    """
    return tuple(previous[i] if i < len(previous) else LineageId(cycle, i) for i in selected)


def overlap(previous: Sequence[LineageId], current: Sequence[LineageId], pool: int) -> Overlap:
    """Compare two successive cores by their lineage ids; `pool` is the size of the candidate pool."""
    before, after = set(previous), set(current)
    carried, union = len(before & after), len(before | after)
    return Overlap(
        carried=carried,
        carryover=carried / len(before) if before else None,
        chance=len(after) / pool,
        new=len(after) - carried,
        jaccard=carried / union if union else None,
    )


def survival(lineages: Sequence[Sequence[LineageId]]) -> dict[int, list[int]]:
    """Return the survivors of every birth cohort.

    A cohort counts the latents that were selected in the cycle of their birth, which is the only way into a core. The
    share that is still alive is each number divided by the first.

    Args:
        lineages: the lineages of C_0..C_L.

    Returns:
        By birth cycle b: how many of the latents born in b are in C_l, for l = b..L.
    """
    cohorts: dict[int, list[int]] = {}
    for birth, lineage in enumerate(lineages):
        cohort = {i for i in lineage if i.cycle == birth}
        if cohort:
            cohorts[birth] = [len(cohort & set(later)) for later in lineages[birth:]]
    return cohorts


def persistent(lineages: Sequence[Sequence[LineageId]], min_cycles: int | None = None) -> Lineage:
    """Return the ids of the last core that were selected in every cycle 0..L (Eq. 8), in the order of the last core.

    Args:
        lineages: the lineages of C_0..C_L.
        min_cycles: n, to ask for each of the last n cores instead (our reading of "persisted through successive cycles"
            for long runs); an n above the number of cores means all; None: every cycle.
    """
    if not lineages:
        return ()
    span = lineages if min_cycles is None else lineages[-max(1, min_cycles) :]
    always = set(span[0]).intersection(*map(set, span[1:]))
    return tuple(i for i in lineages[-1] if i in always)
