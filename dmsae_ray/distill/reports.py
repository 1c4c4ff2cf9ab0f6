"""What a run tells the world: means over a window of steps, and one record a cycle. All plain numbers and names."""

from dataclasses import asdict, dataclass, field
from typing import Any

DISTILLED = "distilled"
"""The arm that is the method itself; every other arm is a control."""


@dataclass(frozen=True)
class WindowReport:
    """Means of the training statistics over the last window of steps.

    cycle, arm   what was being trained
    step         finished steps of this cycle
    tokens       tokens of the feed up to here, those of earlier cycles included: the x axis of a trial's curves
    stats        means over the window (StepStats by name)
    cached       True when the cycle was found in the store and the record is told again
    """

    cycle: int
    arm: str
    step: int
    tokens: int
    stats: dict[str, float]
    cached: bool = False


@dataclass(frozen=True)
class CycleReport:
    """One cycle: what it trained with, what was selected from it, at what cost.

    n_core_in    size of the core that it trained with, C_{l-1} (for controls: of the control core)
    n_core       size of the core selected from it, C_l
    pool         size of the candidate pool
    carried, carryover, chance, new, jaccard     C_l against C_{l-1}, see lineage.Overlap; None in cycle 0
    core_share   share of the summed score held by the core's latents; None without a core or when all scores are 0
    collapsed    None, or why nothing was selected, by name: "all_scores_zero", or a trouble of the training that ended
                 it (sae.TROUBLES)
    troubles     what went wrong in training, ended or not: the first step it was seen in, by name
    metrics      l0, l0_core, l0_non_core, dead_fraction on the attribution set, and those of `evaluate`
    tokens, flops, seconds   cost of the training and scoring (spent by whoever trained it, when `cached`)
    """

    cycle: int
    arm: str
    key: str
    seed: int
    n_core_in: int
    n_core: int
    pool: int
    carried: int | None
    carryover: float | None
    chance: float | None
    new: int | None
    jaccard: float | None
    core_share: float | None
    collapsed: str | None
    tokens: int
    flops: float
    seconds: float
    cached: bool
    metrics: dict[str, float] = field(default_factory=dict)
    troubles: dict[str, int] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """All fields, JSON-serialisable."""
        return asdict(self)

    def floats(self) -> dict[str, float]:
        """The numbers alone, flat, without those that are None: what a tracker logs for this cycle."""
        skip = ("cycle", "arm", "key", "seed", "collapsed", "cached", "metrics", "troubles")
        numbers = {k: float(v) for k, v in asdict(self).items() if k not in skip and v is not None}
        return {**numbers, "collapsed": float(self.collapsed is not None), **self.metrics}
