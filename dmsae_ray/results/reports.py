"""What a trial reports while it runs, as a typed object and as the plain mapping that Ray carries.

A worker makes a `TrialReport`. It travels through Ray Train and Ray Tune as a mapping. The console and the tracker turn
it back into a `TrialReport`.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from dmsae_ray.distill import CycleReport, WindowReport, is_chain

_KEY, _FAILURE = "trial_report", "trial_failure"
"""The keys of ours in a result of Ray Tune, beside plain numbers."""
CYCLE_NUMBERS = ("fvu", "loss_recovered", "l0", "carryover", "retest", "core_share", "core_size")
"""What a finished cycle of a trial is known by to schedulers and searchers of Ray Tune."""
NUMBERS = ("loss", *CYCLE_NUMBERS)
"""What a running trial is known by to schedulers, beside 'tokens' and 'cycle'."""


@dataclass(frozen=True)
class TrialReport:
    """What is new since the last report of the same trial.

    Attributes:
        windows: Points of the training curves, in order.
        cycles: Cycles that have ended, in order.
        resumed: Where an interrupted training was taken up again, in words; empty where none was.
        waits: The training that is waited for since another sweep does it, in words; empty where none is.
        numbers: What is new, for schedulers of Ray Tune: the 'tokens' that were trained on and the 'loss' there; where
            a cycle has ended, its number as 'cycle', and CYCLE_NUMBERS. All are of one moment.
        known: Of each of these the last that is known; without CYCLE_NUMBERS if the last cycle collapsed.
    """

    windows: tuple[WindowReport, ...] = ()
    cycles: tuple[CycleReport, ...] = ()
    resumed: str = ""
    waits: str = ""
    numbers: Mapping[str, float] = field(default_factory=dict)
    known: Mapping[str, float] = field(default_factory=dict)

    def to_metrics(self) -> dict[str, Any]:
        """Return the metrics that `ray.train.report` takes: plain values only."""
        lists = {name: [asdict(item) for item in getattr(self, name)] for name in ("windows", "cycles")}
        words = {"resumed": self.resumed, "waits": self.waits, "known": dict(self.known)}
        return {**self.numbers, _KEY: {**lists, **words}}

    @classmethod
    def from_metrics(cls, metrics: Mapping[str, Any]) -> "TrialReport":
        """Return the report in a result of Ray Tune, or an empty one if the result holds none."""
        tree = metrics.get(_KEY) or {}
        return cls(
            tuple(WindowReport(**fields) for fields in tree.get("windows", ())),
            tuple(CycleReport(**fields) for fields in tree.get("cycles", ())),
            str(tree.get("resumed", "")),
            str(tree.get("waits", "")),
        )

    @classmethod
    def from_flat_metrics(cls, metrics: Mapping[str, Any]) -> "TrialReport":
        """Return the report in a flattened result, with keys such as 'a/b', as Tune's search algorithms get it."""
        fields = ("windows", "cycles", "resumed", "waits")
        tree = {name: metrics[f"{_KEY}/{name}"] for name in fields if f"{_KEY}/{name}" in metrics}
        return cls.from_metrics({_KEY: tree})


def numbers_of(item: WindowReport | CycleReport) -> dict[str, float]:
    """Return what a point of a curve or a finished cycle says, see `TrialReport.numbers`; the unknown is left out."""
    found: dict[str, float | None]
    if isinstance(item, WindowReport):
        found = {"tokens": item.tokens, "loss": item.stats.get("loss")}
    elif item.collapsed is not None:
        found = {"cycle": item.cycle}
    else:
        found = {"cycle": item.cycle, "carryover": item.carryover, "retest": item.retest}
        found |= {name: item.metrics.get(name) for name in ("fvu", "loss_recovered", "l0")}
        found |= {"core_share": item.core_share, "core_size": item.n_core}
    return {name: float(value) for name, value in found.items() if value is not None}


def known_after(known: Mapping[str, float], item: WindowReport | CycleReport) -> dict[str, float]:
    """Return what is known of a trial when a point or a cycle was added, see `TrialReport.known`."""
    if isinstance(item, CycleReport) and item.collapsed is not None:
        known = {name: value for name, value in known.items() if name not in CYCLE_NUMBERS}
    return {**known, **numbers_of(item)}


def known_in(metrics: Mapping[str, Any]) -> dict[str, float]:
    """Return `TrialReport.known` of a result of Ray Tune, as it is or flattened."""
    nested = (metrics.get(_KEY) or {}).get("known") or {}
    start = f"{_KEY}/known/"
    flat = {name.removeprefix(start): value for name, value in metrics.items() if name.startswith(start)}
    return {name: float(value) for name, value in {**nested, **flat}.items()}


def failure_metrics(reason: str) -> dict[str, Any]:
    """Return the last metrics of a trial that cannot go on, for `ray.tune.report`."""
    return {_FAILURE: reason}


def failure_in(metrics: Mapping[str, Any] | None) -> str | None:
    """Return why a trial could not go on, from its last result; None if it did not fail."""
    reason = (metrics or {}).get(_FAILURE)
    return None if reason is None else str(reason)


def cycle_name(arm: str, cycle: int) -> str:
    """Return how a person calls a training: 'cycle 2', 'baseline' or 'control gaussian'; of chains also the cycle."""
    if is_chain(arm):
        return f"control {arm}, cycle {cycle}"
    return {"distilled": f"cycle {cycle}", "baseline": "baseline"}.get(arm, f"control {arm}")
