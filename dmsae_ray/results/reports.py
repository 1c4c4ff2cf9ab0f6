"""What a trial reports while it runs, as a typed object and as the plain mapping that Ray carries.

A worker makes a `TrialReport`. It travels through Ray Train and Ray Tune as a mapping. The console and the tracker turn
it back into a `TrialReport`.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from dmsae_ray.distill import CycleReport, WindowReport

_KEY = "trial_report"
"""The only key of ours in a result of Ray Tune."""


@dataclass(frozen=True)
class TrialReport:
    """What is new since the last report of the same trial.

    Attributes:
        windows: Points of the training curves, in order.
        cycles: Cycles that have ended, in order.
    """

    windows: tuple[WindowReport, ...] = ()
    cycles: tuple[CycleReport, ...] = ()

    def to_metrics(self) -> dict[str, Any]:
        """Return the metrics that `ray.train.report` takes: plain values only."""
        return {_KEY: {name: [asdict(item) for item in getattr(self, name)] for name in ("windows", "cycles")}}

    @classmethod
    def from_metrics(cls, metrics: Mapping[str, Any]) -> "TrialReport":
        """Return the report in a result of Ray Tune, or an empty one if the result holds none."""
        tree = metrics.get(_KEY) or {}
        return cls(
            tuple(WindowReport(**fields) for fields in tree.get("windows", ())),
            tuple(CycleReport(**fields) for fields in tree.get("cycles", ())),
        )
