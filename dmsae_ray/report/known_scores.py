"""Whether a score ranks latents by what matters, where the truth is known: right, wrong, or too few seeds to say."""

import math
from dataclasses import dataclass
from typing import Literal

from dmsae_ray.distill import SCORES
from dmsae_ray.groundtruth import COMPARED, Replica
from dmsae_ray.report.estimates import FEWEST
from dmsae_ray.report.known_features import OWN, KnownFeatures
from dmsae_ray.report.paired import LEVEL, Difference, paired

USEFUL = 0.2
"""A rank correlation that is shown to be below this is of no use."""
CHANCE = 0.1
"""A mean at or below this is at chance, where exact ablation is shown to be more than twice as good."""

Answer = Literal["right", "not shown", "wrong", "constant"]


@dataclass(frozen=True)
class Judged:
    """What the seeds of a regime say of a score.

    Attributes:
        regime: the regime.
        answer: 'constant' if all latents have one score, in any seed; else 'wrong', 'right' or 'not shown'.
        rank: its rank correlation with the true importance, over all latents of cycle 0, less 0.
    """

    regime: str
    answer: Answer
    rank: Difference

    @property
    def text(self) -> str:
        """The regime with the rank correlation."""
        return f"{self.regime} {self.rank.text()}"


def judged(known: KnownFeatures, score: str) -> list[Judged]:
    """Return what the seeds say of a score, for each regime in which it has ranked anything.

    Intervals are 95% of each alone, not corrected. A score is wrong where its interval ends below `USEFUL`; or where
    its mean is at most `CHANCE` and exact ablation, on the same seeds, is shown to be ahead by more than this mean. It
    is right where it is shown to be above 0. Otherwise, and with fewer than `FEWEST` seeds, nothing is shown.
    """
    return [found for regime in known.regimes if (found := _judge(known, regime, score)) is not None]


def _judge(known: KnownFeatures, regime: str, score: str) -> Judged | None:
    found = known.score(regime, score)
    rank = paired(found, dict.fromkeys(found, 0.0), limit=1.0)
    if any(is_constant(r, score) for r in known.of(regime)):
        return Judged(regime, "constant", rank)
    if rank.n == 0:
        return None
    return Judged(regime, "not shown" if rank.n < FEWEST else _answer(known, regime, score, rank), rank)


def _answer(known: KnownFeatures, regime: str, score: str, rank: Difference) -> Answer:
    best = known.score(regime, "ablation")
    over = paired(best, known.score(regime, score), limit=2.0)
    far = over.p is not None and over.p <= LEVEL and over.mean > rank.mean  # by its own mean: twice as good
    if rank.high is not None and rank.high < USEFUL:
        return "wrong"
    if rank.mean <= CHANCE and (far or rank.high is None):  # equal values have no interval
        return "wrong"
    return "right" if rank.p is not None and rank.p <= LEVEL and rank.mean > 0 else "not shown"


def is_constant(replica: Replica, score: str) -> bool:
    """Return whether all latents have one score: it has no rank correlation, though other scores have one."""
    ranks = {name: numbers["dictionary"] for name, numbers in replica.scores.items()}
    return score in ranks and math.isnan(ranks[score]) and not all(map(math.isnan, ranks.values()))


def own_scores(known: KnownFeatures) -> list[str]:
    """Return the scores of a user's own that were only compared: those that selected no cores."""
    used = {r.score for r in known.replicas}
    return [name for name in known.scores if name not in {*SCORES, *COMPARED, OWN, *used}]
