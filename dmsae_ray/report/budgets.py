"""Which budgets of SAEs without a core a comparison at equal FLOP would need, in a sentence."""

from collections.abc import Sequence

from dmsae_ray.distill import DISTILLED
from dmsae_ray.plan import TransferSetting
from dmsae_ray.report.equal_l0 import CLOSE, EQUAL_FLOP, flops_of
from dmsae_ray.report.evaluated import Evaluated, EvaluatedSAE


def equal_flop_notes(evaluated: Evaluated) -> list[str]:
    """Say where SAEs around a distilled core have no rival without one at equal FLOP, and which budgets would be such.

    Args:
        evaluated: the SAEs.
    """
    have: set[float] = set()
    wanted: dict[str, list[float]] = {}
    unknown = False
    for arm in evaluated.arms:
        rivals = [s for s in evaluated.saes if s.arm.is_without_core_of(arm) and s.report.flops > 0]
        if arm.core != DISTILLED or not rivals:
            continue
        have |= {_budget(sae) for sae in rivals}
        for equal, said in EQUAL_FLOP.items():
            every = [flops_of(sae, equal) for sae in evaluated.of(arm)]
            unknown |= any(flops != flops for flops in every)
            wanted.setdefault(said, []).extend(_beyond(every, rivals))
    notes = []
    missing = [budget for budgets in wanted.values() for budget in budgets]
    if missing:
        ends = {min(missing)} if min(missing) < min(have) else set()
        ends |= {max(missing)} if max(missing) > max(have) else set()
        listed = ", ".join(dict.fromkeys(f"{budget:.3g}" for budget in sorted(have | ends)))
        notes.append(
            "Not every SAE around a distilled core has a rival without a core "
            f"{' or '.join(said for said, budgets in wanted.items() if budgets)}: a transfer of the core with "
            f"transfer.baseline_budgets: [{listed}] would train it."
        )
    if unknown:
        notes.append(
            "How many trainings made the core is not known of every SAE: those of which it is not are not compared "
            f"{EQUAL_FLOP['whole']}."
        )
    return notes


def _beyond(wanted: Sequence[float], rivals: Sequence[EvaluatedSAE]) -> list[float]:
    """Return the budgets that would have the FLOP which those of the rivals do not reach."""
    known = [sae.report.flops for sae in rivals]
    unit = sum(sae.report.flops / _budget(sae) for sae in rivals) / len(rivals)
    return [each / unit for each in wanted if 0 < each * CLOSE < min(known) or each > max(known) * CLOSE]


def _budget(sae: EvaluatedSAE) -> float:
    """Return the training tokens of an SAE without a core, in multiples of recipe.tokens."""
    setting = sae.result.setting
    return setting.budget if isinstance(setting, TransferSetting) else 1.0
