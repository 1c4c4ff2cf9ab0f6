"""What a run reports: means over a window of steps, and one report per cycle. All plain numbers and names."""

from dataclasses import asdict, dataclass, field
from typing import Any

DISTILLED = "distilled"
"""The arm that is the method itself; every other arm is a control or a transfer."""
_CHAIN = "_chain"


def chain_arm(name: str) -> str:
    """Return the arm of a control that stands in place of C_0 and runs through all cycles, as the core does."""
    return f"{name}{_CHAIN}"


def is_chain(arm: str) -> bool:
    """Whether an arm is that of a control that runs through all cycles."""
    return arm.endswith(_CHAIN)


@dataclass(frozen=True)
class WindowReport:
    """Means of the training statistics over the last window of steps.

    Attributes:
        cycle: number of the cycle that is trained.
        arm: arm that is trained.
        step: finished steps of this cycle.
        tokens: tokens of the feed up to here, those of earlier cycles included; the x axis of a trial's curves.
        stats: means over the window, by the names of StepStats.floats.
        cached: whether the cycle was found in the store and the window is reported again.
    """

    cycle: int
    arm: str
    step: int
    tokens: int
    stats: dict[str, float]
    cached: bool = False


@dataclass(frozen=True)
class CycleReport:
    """One cycle: what it was trained with, what was selected from it, and at what cost.

    Attributes:
        cycle: number of the cycle, l.
        arm: 'distilled', or the name of another arm.
        key: key of the cycle, see `cycle_key`.
        seed: seed of the training; 0 for a given SAE.
        n_core_in: size of the core that it was trained with, C_{l-1} (for controls: of the control core).
        n_core: size of the core selected from it, C_l.
        pool: size of the candidate pool.
        carried: |C_l ∩ C_{l-1}|, see lineage.Overlap; None in cycle 0, as the next four.
        carryover: carried / |C_{l-1}|.
        chance: carryover of a core drawn from the pool at random.
        new: |C_l| - carried.
        jaccard: carried / |C_l ∪ C_{l-1}|.
        retest: how far the score agrees with itself: the overlap of what the first and the second half of the
            attribution set select, at the same coverage (selection.agreement); None if there is none. No carryover can
            be understood without it: where it is low, other tokens alone change the selection.
        by_square: the overlap of the selection with as many latents that score best by mean_square; None where nothing
            was selected.
        core_share: share of the summed score that the core's latents hold; None without a core or if all scores are 0.
        collapsed: None, or why nothing was selected: "all_scores_zero", or the trouble of the training (sae.TROUBLES)
            that ended it.
        tokens: tokens of the training.
        flops: FLOPs of training and scoring; if `cached`, spent by the trial that trained it, as are `tokens` and
            `seconds`.
        seconds: time of training and scoring.
        cached: whether the cycle was found in the store.
        metrics: l0, l0_core, l0_non_core and dead_fraction on the attribution set, l0_target (what BatchTopK keeps a
            token: the target of l0_non_core beside a dense core, of l0 with a sparse one), and those of `evaluate`.
        troubles: what went wrong in training, whether it ended it or not: the first step in which it was seen, by name.
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
    retest: float | None = None
    by_square: float | None = None

    def as_dict(self) -> dict[str, Any]:
        """Return all fields, JSON-serialisable."""
        return asdict(self)

    def floats(self) -> dict[str, float]:
        """Return the numbers alone, flat and without those that are None: what a tracker logs for this cycle."""
        skip = ("cycle", "arm", "key", "seed", "collapsed", "cached", "metrics", "troubles")
        numbers = {k: float(v) for k, v in asdict(self).items() if k not in skip and v is not None}
        return {**numbers, "collapsed": float(self.collapsed is not None), **self.metrics}
