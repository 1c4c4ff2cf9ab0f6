"""What a finished trial found, read from its summary.json into a typed object."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dmsae_ray.distill import CycleReport
from dmsae_ray.errors import DataError
from dmsae_ray.plan import CycleSetting, Setting, Trial
from dmsae_ray.results.folders import SUMMARY_FILE
from dmsae_ray.results.reports import known_after


@dataclass(frozen=True)
class ChainResult:
    """A control that stood in place of C_0 and ran through all cycles, as the core did.

    Attributes:
        reports: One per cycle, 1..L.
        survivors: How many rows of the control are in it and in what was selected in each cycle.
    """

    reports: tuple[CycleReport, ...]
    survivors: tuple[int, ...]

    @property
    def collapsed(self) -> bool:
        """Whether it ended before its last cycle, or with nothing selected."""
        return any(report.collapsed for report in self.reports)


@dataclass(frozen=True)
class TrialResult:
    """What one finished trial found.

    Attributes:
        trial: The trial.
        reports: One per cycle; a transfer has one.
        controls: The last cycle with a control core, by the control's name.
        chains: Controls in place of C_0 that ran through all cycles, by the control's name.
        left_out: Why a control could not be made, by its arm.
        core_sizes: Sizes of C_0..C_L; empty for a transfer.
        distilled_size: Size of C*; None for a transfer.
        collapse: None, or the name of the collapse and its cycle.
        survival: {birth cycle: survivors at that and each later cycle}.
        tokens: Tokens of its cycles, cached ones included, without the controls.
        flops: FLOPs of the same trainings.
        control_flops: FLOPs of its controls, chains included.
        folder: Where its files are.
        core_trainings: Trainings that made the core of a transfer; None where it has none, or its file did not say it.
        among_best: Of the latents of C* that are in C_0, how many are among as many of C_0 that scored best there; and
            how many these are, all of C* unless `distill.min_cycles` lets in later births. None where there is no C_0.
        stopped: Of a trial that has not finished, why a scheduler stopped it; None if none did.
    """

    trial: Trial
    reports: tuple[CycleReport, ...]
    controls: Mapping[str, CycleReport] = field(default_factory=dict)
    chains: Mapping[str, ChainResult] = field(default_factory=dict)
    left_out: Mapping[str, str] = field(default_factory=dict)
    core_sizes: tuple[int, ...] = ()
    distilled_size: int | None = None
    collapse: str | None = None
    survival: Mapping[int, tuple[int, ...]] = field(default_factory=dict)
    folder: Path | None = None
    core_trainings: int | None = None
    among_best: tuple[int, int] | None = None
    stopped: str | None = None

    @property
    def trial_id(self) -> str:
        """Name of the trial."""
        return self.trial.trial_id

    @property
    def setting(self) -> Setting:
        """Setting of the trial, which its replicas share."""
        return self.trial.setting

    @property
    def sound_controls(self) -> dict[str, CycleReport]:
        """Controls of the last cycle that did not collapse: only these are in a number."""
        return {name: report for name, report in self.controls.items() if not report.collapsed}

    @property
    def beside(self) -> tuple[CycleReport, ...]:
        """Reports of all its controls, those of chains included."""
        return (*self.controls.values(), *(report for chain in self.chains.values() for report in chain.reports))

    @property
    def survivors(self) -> tuple[int, ...]:
        """How many latents of C_0 are in C_0 and in each later core; empty where there is no C_0."""
        return self.survival.get(0, ())

    @property
    def last(self) -> CycleReport:
        """Report of the last cycle."""
        return self.reports[-1]

    @property
    def numbers(self) -> dict[str, float]:
        """What schedulers and searchers of Ray Tune know it by, see `TrialReport.known`; without 'loss'."""
        found: dict[str, float] = {"tokens": float(self.tokens)}
        for report in self.reports:
            found = known_after(found, report)
        return found

    @property
    def tokens(self) -> int:
        """See the class; from the reports, since summaries of version 0.1.0 hold sums with the controls."""
        return sum(report.tokens for report in self.reports)

    @property
    def flops(self) -> float:
        """See the class."""
        return sum(report.flops for report in self.reports)

    @property
    def control_flops(self) -> float:
        """See the class."""
        return sum(report.flops for report in self.beside)

    @property
    def whole_flops(self) -> float | None:
        """FLOPs with those of the trainings that made the core of a transfer, if each of them cost what its own did.

        None where it is not known how many these were.
        """
        if isinstance(self.setting, CycleSetting) or not self.last.n_core_in:
            return self.flops
        return None if self.core_trainings is None else self.flops * (self.core_trainings + 1)

    def metric(self, name: str) -> float:
        """Return a metric of the last cycle; NaN if it was not measured."""
        return self.last.metrics.get(name, math.nan)


def parse_result(summary: Mapping[str, Any], folder: Path | None = None) -> TrialResult:
    """Read a trial's result from its summary.

    Args:
        summary: What `Folders.publish_trial` wrote.
        folder: Where the trial's files are.

    Raises:
        DataError: A required field of the summary is missing or wrong.
    """
    try:
        reports = tuple(_report(r) for r in summary["records"])
        if not reports:
            raise ValueError("no cycles")
        # The summary of a transfer has the training's own record alone.
        collapse = summary.get("collapse", reports[-1].collapsed)
        return TrialResult(
            trial=Trial.from_params(summary["params"]),
            reports=reports,
            controls={name: _report(r) for name, r in summary.get("controls", {}).items()},
            chains={name: _chain(chain) for name, chain in summary.get("chains", {}).items()},
            left_out={str(arm): str(why) for arm, why in summary.get("left_out", {}).items()},
            core_sizes=tuple(summary.get("core_sizes", ())),
            distilled_size=summary.get("distilled_size"),
            collapse=f"{collapse} in cycle {summary.get('collapsed_at', reports[-1].cycle)}" if collapse else None,
            survival={int(birth): tuple(alive) for birth, alive in summary.get("survival", {}).items()},
            folder=folder,
            core_trainings=summary.get("core_trainings"),
            among_best=_among_best(summary),
        )
    except (KeyError, TypeError, ValueError) as error:
        where = folder / SUMMARY_FILE if folder else "summary"
        raise DataError(f"'{where}' is not a trial's summary ({type(error).__name__}: {error})") from None


def _among_best(summary: Mapping[str, Any]) -> tuple[int, int] | None:
    """See `TrialResult.among_best`: the latents of a core are in the order of their scores."""
    lineage, distilled = summary.get("lineage"), summary.get("distilled_lineage")
    if not lineage or distilled is None or summary["records"][0]["cycle"] != 0:
        return None
    kept = [latent for latent in distilled if latent in lineage[0]]
    return sum(latent in lineage[0][: len(kept)] for latent in kept), len(kept)


def _chain(tree: Mapping[str, Any]) -> ChainResult:
    return ChainResult(tuple(_report(r) for r in tree["records"]), tuple(int(n) for n in tree["survivors"]))


def load_result(folder: Path) -> TrialResult:
    """Load the result in a trial's folder.

    Raises:
        DataError: The summary cannot be read.
    """
    path = folder / SUMMARY_FILE
    try:
        summary = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"'{path}' cannot be read ({error})") from None
    return parse_result(summary, folder)


def load_results(sweep_dir: str | Path) -> list[TrialResult]:
    """Load the finished trials of a sweep folder, sorted by setting and seed.

    Raises:
        DataError: A summary cannot be read.
    """
    results = [load_result(path.parent) for path in Path(sweep_dir).glob(f"trials/*/{SUMMARY_FILE}")]
    return sorted(results, key=lambda r: (r.setting.order, r.trial.seed))


def by_setting(results: list[TrialResult]) -> dict[Setting, list[TrialResult]]:
    """Group results by setting: the replicas of each, in the order of `load_results`."""
    found: dict[Setting, list[TrialResult]] = {}
    for result in results:
        found.setdefault(result.setting, []).append(result)
    return found


def _report(fields: Mapping[str, Any]) -> CycleReport:
    measured = {name: value for name, value in fields["metrics"].items() if value is not None}
    return CycleReport(**{**fields, "metrics": measured})
