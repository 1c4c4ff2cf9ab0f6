"""What a finished trial found, typed, read from its summary.json."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dmsae_ray.distill import CycleRecord
from dmsae_ray.errors import DataError
from dmsae_ray.results.folders import SUMMARY_FILE


@dataclass(frozen=True)
class Setting:
    """What the replicas of a setting share. `coverage` is None and `arm` is set for a transfer."""

    k: int
    coverage: float | None
    core_sparsity: str
    arm: str | None

    @property
    def label(self) -> str:
        """A short name, e.g. 'k=20 τ=0.9' or 'k=20 dense gaussian'."""
        if self.arm is None:
            return f"k={self.k} τ={self.coverage:g}"
        return f"k={self.k} {self.arm}" if self.arm == "baseline" else f"k={self.k} {self.core_sparsity} {self.arm}"

    @property
    def order(self) -> tuple[int, float, str, str]:
        """Sort key: by k, then coverage."""
        return (self.k, self.coverage or 0.0, self.arm or "", self.core_sparsity)


@dataclass(frozen=True)
class TrialResult:
    """One finished trial.

    records          one a cycle; a transfer has one
    controls         the last cycle with a control core, by the control's name
    core_sizes       sizes of C_0..C_L; empty for a transfer
    distilled_size   size of C*; None for a transfer
    collapse         None, or the name of the collapse and its cycle
    survival         {birth cycle: survivors at that and each later cycle}
    params           all parameters of the trial
    folder           where its files are
    """

    trial_id: str
    setting: Setting
    seed: int
    records: tuple[CycleRecord, ...]
    controls: Mapping[str, CycleRecord] = field(default_factory=dict)
    core_sizes: tuple[int, ...] = ()
    distilled_size: int | None = None
    collapse: str | None = None
    survival: Mapping[int, tuple[int, ...]] = field(default_factory=dict)
    tokens: int = 0
    flops: float = 0.0
    params: Mapping[str, Any] = field(default_factory=dict)
    folder: Path | None = None

    @property
    def last(self) -> CycleRecord:
        """The last cycle."""
        return self.records[-1]

    def metric(self, name: str) -> float:
        """A metric of the last cycle; NaN where it was not measured."""
        return self.last.metrics.get(name, math.nan)

    def final_metrics(self) -> dict[str, float]:
        """The trial's numbers under the names by which runs are compared."""
        last = self.last
        values: dict[str, float | None] = {
            "carryover": last.carryover,
            "chance": last.chance,
            "jaccard": last.jaccard,
            "core_share": last.core_share,
            "core_size": last.n_core,
            "distilled_size": self.distilled_size,
            "collapsed": float(self.collapse is not None),
            **last.metrics,
            **{f"carryover_{name}": record.carryover for name, record in self.controls.items()},
            "tokens": self.tokens,
            "flops": self.flops,
            "seconds": sum(r.seconds for r in (*self.records, *self.controls.values())),
        }
        return {name: float(value) for name, value in values.items() if value is not None}


def parse_result(summary: Mapping[str, Any], folder: Path | None = None) -> TrialResult:
    """A trial's result from its summary.

    Raises:
        DataError: the summary lacks what it must have.
    """
    try:
        params = summary["params"]
        records = tuple(_record(r) for r in summary["records"])
        if not records:
            raise ValueError("no cycles")
        collapse = summary.get("collapse")
        return TrialResult(
            trial_id=str(summary["trial_id"]),
            setting=Setting(
                int(params["k"]),
                params.get("coverage"),
                str(params.get("core_sparsity", "dense")),
                params.get("arm"),
            ),
            seed=int(params["seed"]),
            records=records,
            controls={name: _record(r) for name, r in summary.get("controls", {}).items()},
            core_sizes=tuple(summary.get("core_sizes", ())),
            distilled_size=summary.get("distilled_size"),
            collapse=f"{collapse} in cycle {summary['collapsed_at']}" if collapse else None,
            survival={int(birth): tuple(alive) for birth, alive in summary.get("survival", {}).items()},
            tokens=int(summary.get("tokens", 0)),
            flops=float(summary.get("flops", 0.0)),
            params=dict(params),
            folder=folder,
        )
    except (KeyError, TypeError, ValueError) as error:
        where = folder / SUMMARY_FILE if folder else "summary"
        raise DataError(f"'{where}' is not a trial's summary ({type(error).__name__}: {error})") from None


def _record(fields: Mapping[str, Any]) -> CycleRecord:
    measured = {name: value for name, value in fields["metrics"].items() if value is not None}
    return CycleRecord(**{**fields, "metrics": measured})


def load_results(sweep_dir: str | Path) -> list[TrialResult]:
    """The finished trials of a sweep folder, by setting and seed.

    Raises:
        DataError: a summary cannot be read.
    """
    results = []
    for path in Path(sweep_dir).glob(f"trials/*/{SUMMARY_FILE}"):
        try:
            summary = json.loads(path.read_text())
        except (OSError, ValueError) as error:
            raise DataError(f"'{path}' cannot be read ({error})") from None
        results.append(parse_result(summary, path.parent))
    return sorted(results, key=lambda r: (r.setting.order, r.seed))


def settings_of(results: list[TrialResult]) -> dict[Setting, list[TrialResult]]:
    """The replicas of each setting, in the order of `load_results`."""
    found: dict[Setting, list[TrialResult]] = {}
    for result in results:
        found.setdefault(result.setting, []).append(result)
    return found
