"""What is shown of a sweep and of its trials at one moment; what is not known is None."""

from dataclasses import dataclass
from typing import Literal

from dmsae_ray.distill import CycleReport
from dmsae_ray.plan import Trial

State = Literal["running", "failed", "stopped", "finished", "waiting"]


@dataclass(frozen=True)
class CycleValues:
    """What is shown of a finished cycle.

    Attributes:
        core: Latents of the core that was selected from it.
        carryover: Share of the core before it that was selected again; None in cycle 0.
        fvu: Fraction of variance unexplained.
        l0: Active latents a token.
        collapsed: Whether the cycle collapsed, which ends its trial.
    """

    core: int | None = None
    carryover: float | None = None
    fvu: float | None = None
    l0: float | None = None
    collapsed: bool = False

    @classmethod
    def of(cls, report: CycleReport) -> "CycleValues":
        """Return the values of a report."""
        metrics = report.metrics
        known = (report.carryover, metrics.get("fvu"), metrics.get("l0"))
        return cls(report.n_core, *known, collapsed=report.collapsed is not None)


@dataclass(frozen=True)
class TrialView:
    """One trial as it is shown.

    Attributes:
        trial: The trial.
        state: Whether it runs, has ended, or waits.
        cycle: Number of the cycle that is trained, or of the last one that was; None before the first report.
        control: Name of the control that is trained; empty for a cycle.
        share: Share of the current training that is done, 0 to 1; None where no training has begun.
        tokens_per_s: Rate of the current training.
        values: Of the last finished cycle; controls do not count.
        seconds_left: Until the trial ends.
        trainings: Trainings that it has.
        waits_for: What a waiting trial waits for, in words.
        reason: Why a trial failed or was stopped.
    """

    trial: Trial
    state: State
    cycle: int | None
    control: str
    share: float | None
    tokens_per_s: float | None
    values: CycleValues
    seconds_left: float | None
    trainings: int
    waits_for: str = ""
    reason: str = ""

    @property
    def collapsed(self) -> bool:
        """Whether it has ended by a collapse: it has finished, and is in no number."""
        return self.state == "finished" and self.values.collapsed


@dataclass(frozen=True)
class SweepView:
    """A sweep as it is shown.

    Attributes:
        trials: Trials: those that run, failed, have finished (while others run, the last one first), wait.
        trainings: Trainings that are done; one that several trials share counts once.
        trainings_in_all: Trainings of the whole sweep.
        cycles: Number of the last cycle; None for transfers.
        tokens_per_s: Rate of all trainings together.
        seconds_left: Until the last trial ends.
    """

    trials: tuple[TrialView, ...]
    trainings: int
    trainings_in_all: int
    cycles: int | None
    tokens_per_s: float | None
    seconds_left: float | None

    def count(self, state: State) -> int:
        """Return the number of trials in a state."""
        return sum(view.state == state for view in self.trials)
