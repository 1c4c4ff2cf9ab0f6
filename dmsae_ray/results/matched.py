"""The k at which baselines match SAEs around a core in the L0 that these measure."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import floor

from dmsae_ray.config import Experiment, axes_label
from dmsae_ray.files import local_path
from dmsae_ray.plan import TransferSetting, expand
from dmsae_ray.results.begun import begun_sweeps, sweep_of
from dmsae_ray.results.folders import folders_of
from dmsae_ray.results.trial import TrialResult, load_results


@dataclass(frozen=True)
class Matched:
    """What the measured L0 of the SAEs around a core asks for.

    Attributes:
        experiment: The transfer with its baselines at these k too.
        lines: Which k match what.
        left_out: What has no baseline, and why.
    """

    experiment: Experiment
    lines: tuple[str, ...]
    left_out: tuple[str, ...]


def matched_baselines(experiment: Experiment, results: Sequence[TrialResult]) -> Matched | None:
    """Return the baselines that `transfer.baseline_k` 'matched' asks for, once all other trials have finished.

    A setting's L0 is that of the whole SAE, core included: the mean over its seeds that did not collapse, rounded. What
    has a baseline of that k already adds none. With further axes each k is trained at all their points: a curve of
    baselines has more of it then.

    Args:
        experiment: The experiment.
        results: The finished trials of its sweep.

    Returns:
        None where the experiment asks for none, or a trial has not finished.
    """
    transfer, trials = experiment.transfer, expand(experiment)
    if transfer is None or not transfer.matches_l0 or {t.trial_id for t in trials} - {r.trial_id for r in results}:
        return None
    least = min(experiment.at(axes).sae.n_latents for axes in experiment.points)
    matching: dict[int, list[str]] = {}
    left_out: list[str] = []
    for setting in dict.fromkeys(trial.setting for trial in trials):
        if not isinstance(setting, TransferSetting) or setting.arm == "baseline":
            continue
        name = f"k = {setting.k} {setting.core_sparsity} {setting.arm} {axes_label(setting.axes)}".rstrip()
        measured = [r.metric("l0") for r in results if r.setting == setting and r.collapse is None]
        known = [l0 for l0 in measured if l0 == l0]
        k = floor(sum(known) / len(known) + 0.5) if known else 0
        if not known:
            left_out.append(f"{name} has no baseline of its L0: every seed collapsed")
        elif not 1 <= k < least:
            left_out.append(
                f"{name} has no baseline of its L0, {sum(known) / len(known):.1f}: k must be from 1 to below "
                f"sae.n_latents = {least}"
            )
        elif k not in experiment.baseline_ks:
            matching.setdefault(k, []).append(name)
    lines = tuple(f"k = {k} matches the L0 of {' and '.join(names)}" for k, names in matching.items())
    return Matched(experiment.with_baselines(tuple(matching)), lines, tuple(left_out))


def matched_before(experiment: Experiment) -> Matched | None:
    """Return the same from what the experiment's sweep has found on this machine; None if it is not so far.

    Raises:
        DataError: `output` or a summary cannot be read.
    """
    transfer = experiment.transfer
    if transfer is None or not transfer.matches_l0 or local_path(experiment.output) is None:
        return None
    known = sweep_of(experiment, begun_sweeps(folders_of(experiment).output, experiment.name))
    return None if known is None else matched_baselines(experiment, load_results(folders_of(experiment, known).sweep))
