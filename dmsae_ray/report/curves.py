"""Training curves of the last cycle, read from the journal and averaged over seeds."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from dmsae_ray.distill import DISTILLED
from dmsae_ray.plan import TransferSetting
from dmsae_ray.report.estimates import Estimate, estimate
from dmsae_ray.results import TrialResult
from dmsae_ray.tracking import read_journal


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
    k and core sparsity, with the arms side by side; the baseline is left out, since it has no core.

    Args:
        results: The finished trials.
        journal: Path of the tracking journal.
        name: Name of the metric.

    Returns:
        {panel: {arm: band}}.
    """
    curves: dict[tuple[str, str], dict[int, float]] = defaultdict(dict)
    wanted, by_id = f"/{name}", {r.trial_id: r for r in results}
    for record in read_journal(journal):
        if record.kind == "metric" and record.trial in by_id and record.key.startswith("train/"):
            arm = record.key.removeprefix("train").removesuffix(wanted)
            if record.key.endswith(wanted) and arm.count("/") <= 1:
                curves[record.trial, arm.lstrip("/")][record.step] = float(record.value)
    replicas: dict[tuple[str, str], list[dict[int, float]]] = defaultdict(list)
    for (trial_id, arm), curve in curves.items():
        result = by_id[trial_id]
        setting = result.setting
        if isinstance(setting, TransferSetting):
            if setting.arm == "baseline":
                continue
            # A transfer reads the feed from its first token on.
            start, panel, own_arm = 0, f"k={setting.k} {setting.core_sparsity}", str(setting.arm)
        else:
            # Cycle l of a trial begins in the feed after l times the tokens of a cycle.
            start, panel, own_arm = result.last.cycle * result.last.tokens, setting.label, DISTILLED
        own = {step - start: value for step, value in curve.items() if step > start}
        if own:
            replicas[panel, arm or own_arm].append(own)
    bands: dict[str, dict[str, Band]] = defaultdict(dict)
    for (panel, arm), found in replicas.items():
        tokens = sorted(set.intersection(*(set(curve) for curve in found)))
        if tokens:
            bands[panel][arm] = Band(tokens, [estimate(curve[t] for curve in found) for t in tokens])
    return dict(bands)
