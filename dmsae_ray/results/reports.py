"""What a trial reports while it runs: typed, and as the plain mapping in which Ray carries it.

A worker makes a `TrialReport`; it travels through Ray Train and Ray Tune as a mapping; the console and the tracker read
a `TrialReport` again.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from dmsae_ray.distill import CycleReport, WindowReport

_KEY = "trial_report"
"""The one key of ours in a result of Ray Tune."""


@dataclass(frozen=True)
class TrialReport:
    """What has come since the last report of the same trial.

    Attributes:
        windows: points of the training curves, in order.
        cycles: cycles that have ended, in order.
    """

    windows: tuple[WindowReport, ...] = ()
    cycles: tuple[CycleReport, ...] = ()

    def to_metrics(self) -> dict[str, Any]:
        """The metrics that `ray.train.report` takes: plain values only."""
        return {_KEY: {name: [asdict(item) for item in getattr(self, name)] for name in ("windows", "cycles")}}

    @classmethod
    def from_metrics(cls, metrics: Mapping[str, Any]) -> "TrialReport":
        """The report in a result of Ray Tune; an empty one where a result holds none."""
        tree = metrics.get(_KEY) or {}
        return cls(
            tuple(WindowReport(**fields) for fields in tree.get("windows", ())),
            tuple(CycleReport(**fields) for fields in tree.get("cycles", ())),
        )
