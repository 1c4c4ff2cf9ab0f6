"""Who is who across cycles. Frozen rows make identity exact: a latent is the same if its encoder row was handed on."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple


class LineageId(NamedTuple):
    """Where a latent was born: the cycle whose SAE learned its encoder row, and its row number in that SAE."""

    cycle: int
    latent: int

    def __str__(self) -> str:
        return f"{self.cycle}.{self.latent}"


Lineage = tuple[LineageId, ...]


@dataclass(frozen=True)
class Overlap:
    """How two successive cores C_{l-1} and C_l compare. Ratios with an empty denominator are None.

    carried    |C_l ∩ C_{l-1}|
    carryover  carried / |C_{l-1}|
    chance     |C_l| / |pool|: the carryover of a core drawn from the pool by lot
    new        |C_l| - carried
    jaccard    carried / |C_l ∪ C_{l-1}|
    """

    carried: int
    carryover: float | None
    chance: float
    new: int
    jaccard: float | None


def descend(previous: Sequence[LineageId], cycle: int, selected: Sequence[int]) -> Lineage:
    """Lineage ids of the latents `selected` from cycle `cycle`'s SAE, whose rows 0..c-1 carry `previous`' ids.

    An index below c keeps its id; any other was born here.
    """
    return tuple(previous[i] if i < len(previous) else LineageId(cycle, i) for i in selected)


def overlap(previous: Sequence[LineageId], current: Sequence[LineageId], pool: int) -> Overlap:
    """Carried, carryover, chance, new and Jaccard of two successive cores; `pool` is the size of the candidate pool."""
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
    """Survivors of every birth cohort: {birth cycle b: [how many of the latents born in b are in C_l, for l = b..L]}.

    `lineages` are those of C_0..C_L. A cohort counts the latents that were selected in the cycle of their birth, the
    only way into a core. Its share alive is each number divided by the first.
    """
    cohorts: dict[int, list[int]] = {}
    for birth, lineage in enumerate(lineages):
        cohort = {i for i in lineage if i.cycle == birth}
        if cohort:
            cohorts[birth] = [len(cohort & set(later)) for later in lineages[birth:]]
    return cohorts


def persistent(lineages: Sequence[Sequence[LineageId]], min_cycles: int | None = None) -> Lineage:
    """Eq. 8: the ids of the last core that were selected in every cycle 0..L, in the order of the last core.

    With `min_cycles` = n, those selected in each of the last n cores (our reading of "persisted through successive
    cycles" for long runs); n beyond the number of cores means all of them.
    """
    if not lineages:
        return ()
    span = lineages if min_cycles is None else lineages[-max(1, min_cycles) :]
    always = set(span[0]).intersection(*map(set, span[1:]))
    return tuple(i for i in lineages[-1] if i in always)
