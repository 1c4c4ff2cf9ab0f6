"""Training curves of the last cycle, read from the journal and averaged over seeds."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from dmsae_ray.config import axes_label
from dmsae_ray.distill import DISTILLED, is_chain
from dmsae_ray.plan import TransferSetting
from dmsae_ray.report.estimates import Estimate, estimate
from dmsae_ray.results import TrialResult
from dmsae_ray.tracking import RunName, read_journal


@dataclass(frozen=True)
class Band:
    """A curve averaged over seeds.

    Attributes:
        tokens: Tokens since the beginning of the cycle.
        values: Values at these tokens.
    """

    tokens: list[int]
    values: list[Estimate]


def final_cycle_bands(results: Sequence[TrialResult], journal: Path, name: str) -> dict[str, dict[str, Band]]:
    """Return the curve `train/<name>` of every arm in the last cycle.

    For trials of cycles there is a panel per setting, and the controls are its arms. For transfers there is a panel per
    k, core sparsity and point of the further axes, with the arms side by side; the baseline is left out, since it has
    no core.

    Args:
        results: The finished trials.
        journal: Path of the tracking journal.
        name: Name of the metric.

    Returns:
        {panel: {arm: band}}.
    """
    replicas: dict[tuple[str, str], list[dict[int, float]]] = defaultdict(list)
    by_id = {r.trial_id: r for r in results}
    for run, curve in _curves(journal, name).items():
        result = by_id.get(run.trial)
        if result is None:
            continue
        setting = result.setting
        if isinstance(setting, TransferSetting):
            if setting.arm != "baseline":
                panel = f"k={setting.k} {setting.core_sparsity} {axes_label(setting.axes)}".rstrip()
                replicas[panel, str(setting.arm)].append(curve)
        elif not is_chain(run.arm) and (run.arm or run.cycle == result.last.cycle):
            replicas[setting.label, run.arm or DISTILLED].append(curve)
    bands: dict[str, dict[str, Band]] = defaultdict(dict)
    for (panel, arm), found in replicas.items():
        tokens = sorted(set.intersection(*(set(curve) for curve in found)))
        if tokens:
            bands[panel][arm] = Band(tokens, [estimate(curve[t] for curve in found) for t in tokens])
    return dict(bands)


def _curves(journal: Path, name: str) -> dict[RunName, dict[int, float]]:
    """Return the curve of every training: {run: {tokens: value}}."""
    curves: dict[RunName, dict[int, float]] = defaultdict(dict)
    for record in read_journal(journal):
        value = record.metrics.get(f"train/{name}") if record.kind == "metrics" and record.run else None
        if value is not None and record.run is not None:
            curves[RunName.of(record.run)][record.step] = value
    return dict(curves)
