"""The benchmark with known features: differences between sets of latents, and between scores, paired by seed."""

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, cached_property

from dmsae_ray.errors import DataError
from dmsae_ray.groundtruth import Replica
from dmsae_ray.report.paired import Difference, holm, paired

VARIANTS = ("dense", "sparse")
OWN = "the run's score"


@dataclass(frozen=True)
class Comparison:
    """Two sets of latents of one size.

    Attributes:
        arm: the set that is asked about.
        rival: the set that it is compared with.
    """

    arm: str
    rival: str

    @property
    def text(self) -> str:
        """What is compared."""
        return f"{self.arm} - {self.rival}"


AT_FIRST_SIZE = (
    Comparison("distilled", "best of C_0"),
    Comparison("distilled, decoder of cycle 0", "best of C_0"),
    Comparison("distilled", "random of C_0"),
    Comparison("distilled", "most frequent"),
    Comparison("distilled", "random of the pool"),
    Comparison("distilled", "lowest over domains"),
    Comparison("lowest over domains", "best of C_0"),
)
"""Of the size of the distilled core."""
AT_LAST_SIZE = (
    Comparison("last core", f"best of prefix 0 by {OWN}"),
    Comparison("last core", f"best of the dictionary by {OWN}"),
    Comparison("last core", "best of the dictionary by mean_square"),
    Comparison("last core", "best of the dictionary by ablation"),
)
"""Of the size of the last core C_L."""
COMPARISONS = AT_FIRST_SIZE + AT_LAST_SIZE
"""Chosen before any result was seen; all of one metric are corrected together."""
SCORE_PAIRS = (
    ("mean_square", "quantile 0.99"),
    ("ablation", "quantile 0.99"),
    ("quantile 0.999", "quantile 0.99"),
    ("mean_square", "ablation"),
    ("ablation", "ablation, spliced"),
)

BySeed = dict[int, float]


class KnownFeatures:
    """What replicas of the benchmark have measured.

    Args:
        replicas: the replicas; of one regime they differ in their seeds. Those that are the same in every number and in
            their world count once.

    Raises:
        DataError: a replica is there twice.
    """

    def __init__(self, replicas: Sequence[Replica]) -> None:
        names = [(r.regime, r.seed) for r in replicas]
        twice = [f"{regime}, seed {seed}" for regime, seed in dict.fromkeys(names) if names.count((regime, seed)) > 1]
        if twice:
            raise DataError(f"groundtruth: {twice[0]} is there twice; a replica counts once")
        self.replicas, self.copies = _distinct(sorted(replicas, key=lambda r: r.seed))
        self.regimes = list(dict.fromkeys(r.regime for r in replicas))
        self.scores = list(dict.fromkeys(name for r in self.replicas for name in r.scores))
        """Names of all scores that were compared."""
        self.pool_is_all = all(
            s["pool"] == s["dictionary"] or math.isnan(s["pool"] + s["dictionary"])
            for r in self.replicas
            for s in r.scores.values()
        )
        """Whether the pool is the whole dictionary, so that what is measured over both is the same."""
        self.differences = cache(self._differences)
        """By metric: the differences by (regime, variant, text of the comparison), corrected together."""

    def of(self, regime: str) -> list[Replica]:
        """Return the replicas of a regime."""
        return [r for r in self.replicas if r.regime == regime]

    def values(self, regime: str, pick: Callable[[Replica], float | None]) -> BySeed:
        """Return a number by seed, where it exists."""
        found = {r.seed: pick(r) for r in self.of(regime)}
        return {seed: value for seed, value in found.items() if value is not None and not math.isnan(value)}

    def arm(self, regime: str, variant: str, arm: str, metric: str) -> BySeed:
        """Return a metric of a set of latents."""
        return self.values(regime, lambda r: r.arms.get(variant, {}).get(arm, {}).get(metric))

    def score(self, regime: str, score: str, over: str = "dictionary") -> BySeed:
        """Return how well a score ranks latents: over the 'dictionary', the 'pool', or what its 'best' recover."""
        return self.values(regime, lambda r: r.scores.get(score, {}).get(over))

    def core(self, regime: str, variant: str, cycle: int, metric: str) -> BySeed:
        """Return a metric of the core that a cycle was trained around."""

        def pick(r: Replica) -> float | None:
            return next((c[metric] for c in r.cores.get(variant, []) if c["cycle"] == cycle), None)

        return self.values(regime, pick)

    def found_again(self, regime: str, arm: str, metric: str) -> BySeed:
        """Return a metric of the rediscovery of a set of latents."""
        return self.values(regime, lambda r: r.rediscovery.get(arm, {}).get(metric))

    def quality(self, regime: str, arm: str, metric: str) -> BySeed:
        """Return a metric of a fresh SAE."""
        return self.values(regime, lambda r: r.transfer.get(arm, {}).get(metric))

    def _differences(self, metric: str) -> dict[tuple[str, str, str], Difference]:
        keys, raw = [], []
        for regime in self.regimes:
            for variant in VARIANTS:
                for comparison in COMPARISONS:
                    a, b = (self.arm(regime, variant, name, metric) for name in (comparison.arm, comparison.rival))
                    if a and b:
                        keys.append((regime, variant, comparison.text))
                        raw.append(paired(a, b, limit=1.0))
        return dict(zip(keys, holm(raw), strict=True))

    @cached_property
    def score_differences(self) -> dict[tuple[str, str], Difference]:
        """Differences of rank correlations with the truth, by (regime, text), corrected together."""
        keys, raw = [], []
        for regime in self.regimes:
            for a, b in SCORE_PAIRS:
                one, other = self.score(regime, a), self.score(regime, b)
                if one and other:
                    keys.append((regime, f"{a} - {b}"))
                    raw.append(paired(one, other, limit=2.0))
        return dict(zip(keys, holm(raw), strict=True))


def _distinct(replicas: Sequence[Replica]) -> tuple[list[Replica], list[tuple[Replica, Replica]]]:
    """Return the replicas without those that repeat another, and beside each of these the one that it repeats.

    Seeds that were really run never agree in every number, but where nothing was measured.
    """
    kept: dict[str, Replica] = {}
    copies = []
    for r in replicas:
        what = r.as_dict() | ({"seconds": 0.0, "seed": 0} if r.scores else {})
        first = kept.setdefault(json.dumps(what, sort_keys=True), r)
        copies += [(r, first)] if first is not r else []
    return list(kept.values()), copies
