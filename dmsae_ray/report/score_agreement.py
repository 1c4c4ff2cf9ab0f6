"""How scores agree: with exact ablation, with themselves on other tokens, and in what they select."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import NamedTuple

import torch
from torch import Tensor

from dmsae_ray.distill import agreement, rank_correlation, select_core
from dmsae_ray.plan import CycleSetting
from dmsae_ray.report.estimates import Estimate, Scale, estimate
from dmsae_ray.report.paired import Difference, holm, paired

REFERENCE = "ablation"
MEASURES: dict[str, Scale] = {
    "rank": "difference",
    "overlap": "share",
    "retest rank": "difference",
    "retest overlap": "share",
    "size": "amount",
}
"""Rank correlation with the reference; overlap of the n best of both; the same of a score's two halves; latents that
reach the coverage. n is the size of the core that was selected from the cycle."""


@dataclass(frozen=True, eq=False)
class ScoredCycle:
    """All scores of one cycle.

    Attributes:
        setting: setting of its trial.
        seed: seed of its trial.
        cycle: its number.
        selected: size of the core that was selected from it.
        own: name of the score that selected it.
        key: key of the cycle; trials that differ in coverage share cycle 0.
        scores: by name float64 [3, pool]: by all tokens, by the first half, by the second.
        chose: whether the core is what `own` selects here; not so over another pool or other tokens than the run's.
        pool: groups of the pool, where it is not that of the run; else None.
    """

    setting: CycleSetting
    seed: int
    cycle: int
    selected: int
    own: str
    key: str
    scores: Mapping[str, Tensor]
    chose: bool = True
    pool: int | None = None

    @property
    def place(self) -> "Place":
        """Where its numbers belong."""
        return Place(self.setting, self.cycle, self.pool)

    def measure(self, score: str, name: str) -> float | None:
        """Return a measure of a score, see `MEASURES`; None where there is none.

        Args:
            score: name of the score.
            name: name of the measure.
        """
        found = self.scores.get(score)
        if found is None:
            return None
        whole, first, second = found
        if name == "size":
            return float(len(select_core(whole.clamp_min(0), self.setting.coverage)))
        if name.startswith("retest"):
            a, b = first, second
        elif REFERENCE in self.scores:
            a, b = whole, self.scores[REFERENCE][0]
        else:
            return None
        if name.endswith("rank"):
            return rank_correlation(a, b)
        return agreement(best(a, self.selected), best(b, self.selected))


def best(scores: Tensor, n: int) -> Tensor:
    """Return the n latents that a selection by size takes, int64: of a positive score, so that there may be fewer."""
    return select_core(scores.clamp_min(0), 1.0, n) if n else torch.empty(0, dtype=torch.int64)


class Place(NamedTuple):
    """What the seeds of a row have in common.

    Attributes:
        setting: their setting.
        cycle: number of the cycle.
        pool: groups of the pool, where it is not that of the runs; else None.
    """

    setting: CycleSetting
    cycle: int
    pool: int | None = None


class Agreement:
    """The measures over seeds.

    Args:
        cycles: the scored cycles.
    """

    def __init__(self, cycles: Sequence[ScoredCycle]) -> None:
        self.cycles = cycles
        self._alike: dict[object, list[Place]] = {}
        places = dict.fromkeys(c.place for c in cycles)
        for place in sorted(places, key=lambda p: (p.setting.order, p.cycle, p.pool or 0)):
            self._alike.setdefault(self._what(place), []).append(place)
        self.places = [alike[0] for alike in self._alike.values()]
        """In order; of several with the same SAEs, scores and sizes the first."""
        names = dict.fromkeys(name for c in cycles for name in c.scores)
        self.names = sorted(names, key=lambda name: (name.startswith(REFERENCE), not name.startswith("quantile"), name))
        """Names of the scores: quantiles, the others, ablations."""
        self.values = cache(self._values)
        """(place, score, measure) -> values by seed."""

    def _values(self, place: Place, score: str, name: str) -> dict[int, float]:
        found = {c.seed: c.measure(score, name) for c in self.at(place)}
        return {seed: value for seed, value in found.items() if value is not None}

    def _what(self, place: Place) -> object:
        """Return what decides all measures of a place; settings that say how a core is used share cycle 0."""
        own = sorted((c.seed, c.key, c.selected, c.own) for c in self.at(place))
        return place.cycle, place.pool, place.setting.coverage, tuple(own)

    def at(self, place: Place) -> list[ScoredCycle]:
        """Return the scored cycles of a place, one an SAE: seeds that were given the same one are no replicas."""
        found: dict[str, ScoredCycle] = {}
        for cycle in self.cycles:
            if cycle.place == place:
                found.setdefault(cycle.key, cycle)
        return list(found.values())

    def own(self, place: Place) -> str:
        """Return the name of the score that selected the cores of a place."""
        return self.at(place)[0].own

    def lacks(self) -> list[str]:
        """Return a line for each place whose seeds share SAEs."""
        lines = []
        for place in self.places:
            seeds: dict[str, list[int]] = {}
            for cycle in self.cycles:
                if cycle.place == place:
                    seeds.setdefault(cycle.key, []).append(cycle.seed)
            lines += [
                f"{self.label(place)}, cycle {place.cycle}: seeds {', '.join(map(str, shared))} have one SAE, "
                "and count once"
                for shared in seeds.values()
                if len(shared) > 1
            ]
        return lines

    def label(self, place: Place) -> str:
        """Return what a place is called: its setting, how many others have the same SAEs, and a pool of its own."""
        others = len(self._alike[self._what(place)]) - 1
        pool = "" if place.pool is None else f", pool of {place.pool} group{'s' if place.pool > 1 else ''}"
        return place.setting.label + (f" (and {others} more)" if others else "") + pool

    def keys(self, place: Place) -> frozenset[str]:
        """Return the keys of the cycles of a place."""
        return frozenset(c.key for c in self.at(place))

    def estimate(self, place: Place, score: str, name: str) -> Estimate:
        """Return the estimate of a measure over the seeds."""
        return estimate(self.values(place, score, name).values(), MEASURES[name])

    def against(self, other: str, name: str = "rank") -> dict[tuple[Place, str], Difference]:
        """Return each score less another one, by (place, score), corrected together.

        Only places whose cores were selected by the other one, where there are any. Other kinds of ablation are left
        out: they share the tokens of the reference, and so its noise.
        """
        keys, raw = [], []
        by_other = [place for place in self.places if self.own(place) == other]
        for place in by_other or self.places:
            theirs = self.values(place, other, name)
            for score in self.names:
                own = self.values(place, score, name)
                if score != other and not score.startswith(REFERENCE) and own and theirs:
                    keys.append((place, score))
                    raw.append(paired(own, theirs, limit=2.0))
        return dict(zip(keys, holm(raw), strict=True))
