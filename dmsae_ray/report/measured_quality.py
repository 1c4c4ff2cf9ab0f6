"""What `dmsae eval` has measured of one SAE, and of those of the other seeds of its setting."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from dmsae_ray.distill import CycleReport
from dmsae_ray.report.quality_page import NAME
from dmsae_ray.results import TrialResult, load_results

Metrics = Mapping[str, float]
"""Numbers by evaluation and name, as 'core/ce_loss_score'."""


@dataclass(frozen=True)
class Quality:
    """What was measured.

    Attributes:
        own: of the SAE itself.
        seeds: by seed, of the SAEs of its setting.
    """

    own: Metrics
    seeds: Mapping[int, Metrics]


def read_quality(sweep: Path, result: TrialResult, report: CycleReport, seeds: Sequence[int]) -> Quality | None:
    """Return what the last `dmsae eval` of a sweep has measured of an SAE; None where it has nothing of it.

    SAEs are found by their keys, so that the numbers of another training are never taken for theirs.

    Args:
        sweep: the sweep's folder.
        result: the SAE's trial.
        report: its cycle or control.
        seeds: seeds of its setting that are in means.
    """
    try:
        rows = json.loads((sweep / f"{NAME}.json").read_text(encoding="utf-8"))["saes"]
        every = {row["key"]: {n: float(v) for n, v in row["metrics"].items() if v is not None} for row in rows}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    if report.key not in every:
        return None
    replicas = [each for each in load_results(sweep) if each.setting == result.setting and each.trial.seed in seeds]
    keys = {each.trial.seed: _key(each, result, report) for each in replicas}
    return Quality(every[report.key], {seed: every[key] for seed, key in sorted(keys.items()) if key in every})


def _key(other: TrialResult, result: TrialResult, report: CycleReport) -> str | None:
    """Return the key of the SAE of another trial that stands where `report` stands in `result`."""
    if report in result.beside:
        return next((each.key for each in other.beside if (each.arm, each.cycle) == (report.arm, report.cycle)), None)
    if report == result.last:
        return other.last.key
    return next((each.key for each in other.reports if each.cycle == report.cycle), None)
