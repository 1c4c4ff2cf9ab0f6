"""What a sweep found, in a sentence with its figures: plain text, for the head of a page and the note of a run."""

from collections.abc import Callable, Sequence

from dmsae_ray.config import axes_label, axes_order
from dmsae_ray.plan import Arm, CycleSetting, TransferSetting, times_the_tokens
from dmsae_ray.report.aggregate import Aggregate
from dmsae_ray.report.estimates import FEWEST, NONE, Estimate

UNMATCHED = "gaussian_unit"
"""The control whose rows do not have the norms of the core's."""
_ORDER: tuple[Arm, ...] = ("distilled", "gaussian", "gaussian_unit", "baseline")
"""The arms of transfers, in the order in which they are named."""


def cycles_finding(settings: Sequence[Aggregate[CycleSetting]], last_cycle: int | None) -> str:
    """Say how much of a core came back in the last cycle, beside chance and the best control."""
    known = [a for a in settings if a.carryover.n]
    if not known:
        return _nothing_came_back(settings)
    finished = [a for a in known if a.finished]
    shown = finished or known
    said = _one(shown[0]) if len(shown) == 1 else _several(shown)
    return f"{'' if finished else _so_far(known, last_cycle)}{said}{_others(settings, shown)}{_collapses(settings)}"


def transfers_finding(settings: Sequence[Aggregate[TransferSetting]]) -> str:
    """Say how well SAEs around a fixed core reconstruct beside the others, and at what measured L0."""
    arms = sorted({_arm(a) for a in settings}, key=lambda a: (_ORDER.index(a[0]), *a[1:]))
    parts = []
    for arm, sparsity, budget in arms:
        own = [a for a in settings if _arm(a) == (arm, sparsity, budget)]
        if not any(a.metrics["fvu"].n for a in own):
            continue
        longer = f"{times_the_tokens(budget)}, " if budget != 1 else ""
        name = f"without a core ({longer}" if arm == "baseline" else f"around the {arm} core ({sparsity}, "
        parts.append(f"{_reach(own, 'fvu', 3)} {name}measured L0 {_reach(own, 'l0', 1)})")
    if not parts:
        return f"No transfer was measured.{_collapses(settings)}"
    ks = sorted({a.setting.k for a in settings})
    at = f"With k = {ks[0]}" if len(ks) == 1 else f"With k from {ks[0]} to {ks[-1]}"
    points = sorted({a.setting.axes for a in settings if a.setting.arm != "baseline"}, key=axes_order)
    at += f", at {' and '.join(map(axes_label, points))}" if len(points) == 2 else ""
    at += f", at {len(points)} points of {len(points[0])} further axes" if len(points) > 2 else ""
    n = _seeds(settings)
    last = "; where measured L0 differs, only the curves can be compared" if len(parts) > 1 else ""
    said = f"{at}, the share of variance left unexplained is {', '.join(parts)} ({n}){last}."
    return f"{said}{_compute(settings)}{_collapses(settings)}"


def _arm(one: Aggregate[TransferSetting]) -> tuple[Arm, str, float]:
    return one.setting.arm, one.setting.core_sparsity, one.setting.budget


def _compute(settings: Sequence[Aggregate[TransferSetting]]) -> str:
    """Say what an SAE around the distilled core costs beside a baseline, alone and with the trainings of its core."""
    own = [a for a in settings if a.setting.arm == "distilled" and a.whole_flops.n and a.trial_flops.mean > 0]
    if not own:
        return ""
    alone, whole = (sum(getattr(a, n).mean for a in own) / len(own) for n in ("trial_flops", "whole_flops"))
    parts = []
    for budget in sorted({a.setting.budget for a in settings}):
        rivals = [a for a in settings if (a.setting.arm, a.setting.budget) == ("baseline", budget) and a.trial_flops.n]
        theirs = sum(a.trial_flops.mean for a in rivals) / len(rivals) if rivals else 0.0
        if theirs > 0:
            which = f" with {times_the_tokens(budget)}" if budget != 1 else ""
            parts.append(f"{alone / theirs:.2f} ({whole / theirs:.2f}) times that of a baseline{which}")
    if not parts:
        return ""
    return (
        f" The training FLOP of an SAE around the distilled core, in brackets with the {whole / alone - 1:.0f} "
        f"trainings that made the core, is {' and '.join(parts)}."
    )


def _one(found: Aggregate[CycleSetting]) -> str:
    came, of = found.carried
    share = f"{_with_interval(found.carryover, Estimate.percent)} of the core"
    over = f"{came} of {of} latents" + (f" over {_seeds([found])}" if len(found.seeds) > 1 else "; one seed")
    text = f"With {_name(found)}, {share} came back in {_cycle([found])} ({over}); {_retest([found])}"
    text += f"chance is {found.chance.mean:.0%}"
    control = _best_control(found)
    if control is None:
        return f"{text}; there is no control."
    kind = f"the {control.replace('_', ' ')} control, {_norms(control)},"
    matched = [name for name in found.controls if name != UNMATCHED]
    if len(matched) > 1:
        kind = f"the best of {len(matched)} controls matched in norm, {control.replace('_', ' ')},"
    return f"{text}, {kind} has {found.controls[control].percent()}: {_verdict(found, control)}."


def _verdict(found: Aggregate[CycleSetting], control: str) -> str:
    margin = found.margins[control]
    if margin.interval is None:
        if margin.n >= FEWEST:
            return f"all {margin.n} seeds have the same difference, {_points(margin.mean)}, which gives no interval"
        too_few = "one seed says nothing" if margin.n == 1 else f"{margin.n} seeds say nothing"
        return f"{too_few} about the difference of {_points(margin.mean)}"
    low, high = margin.interval
    reach = f"{_points(margin.mean)} [{100 * low:+.0f}, {100 * high:+.0f}], paired by seed"
    if low > 0:
        return f"the core is ahead by {reach}"
    return f"the control is ahead ({reach})" if high < 0 else f"no difference is shown ({reach})"


def _several(found: Sequence[Aggregate[CycleSetting]]) -> str:
    least, most = min(found, key=lambda a: a.carryover.mean), max(found, key=lambda a: a.carryover.mean)
    text = (
        f"In {len(found)} settings ({_seeds(found)} each), {least.carryover.mean:.0%} ({_name(least)}) to "
        f"{most.carryover.mean:.0%} ({_name(most)}) of the core came back in {_cycle(found)}; {_retest(found)}"
        f"chance is {_between([a.chance.mean for a in found])}"
    )
    with_control = [(a, name) for a in found if (name := _best_control(a)) is not None]
    if not with_control:
        return f"{text}; there is no control."
    shares = _between([a.controls[name].mean for a, name in with_control])
    kinds = {name for _, name in with_control}
    kind = f"the {min(kinds).replace('_', ' ')} control" if len(kinds) == 1 else "the best control"
    margins = [a.margins[name] for a, name in with_control]
    ahead = sum(m.mean > 0 for m in margins)
    norms = " and ".join(sorted({_norms(name) for name in kinds}))
    text = f"{text}, {kind}, {norms}, has {shares}. The core is ahead in {ahead} of {len(margins)} settings"
    sure = [m.interval for m in margins if m.interval is not None]
    if not sure:
        why = f"with fewer than {FEWEST} seeds" if max(m.n for m in margins) < FEWEST else "where all seeds are equal"
        return f"{text}; {why} there is no interval, so this shows no difference."
    above, below = sum(low > 0 for low, _ in sure), sum(high < 0 for _, high in sure)
    behind = f"; in {below} the control is ahead in the same sense" if below else ""
    return f"{text}, in {above} with a 95% interval of the paired difference above 0{behind}."


def _retest(found: Sequence[Aggregate[CycleSetting]]) -> str:
    known = [a.retest.mean for a in found if a.retest.n]
    return f"two halves of the attribution tokens agree on {_between(known)} of a selection; " if known else ""


def _nothing_came_back(settings: Sequence[Aggregate[CycleSetting]]) -> str:
    seeds = sum(len(a.seeds) for a in settings)
    if seeds == 0:
        reasons = sorted({reason for a in settings for reason in a.collapsed.values()})
        return f"No core came back: every seed collapsed ({_count(settings)}: {', '.join(reasons)})."
    sizes = _between([a.core_sizes[0].mean for a in settings if a.core_sizes], "{:.0f}")
    return (
        f"So far only cycle 0 is finished ({_count(settings)}): it selected {sizes} latents, and what comes back is "
        f"known from cycle 1 on.{_collapses(settings)}"
    )


def _so_far(settings: Sequence[Aggregate[CycleSetting]], last_cycle: int | None) -> str:
    of = "" if last_cycle is None else f" of {last_cycle}"
    done = sorted({a.cycle for a in settings if a.cycle is not None})
    cycles = "-".join(str(c) for c in dict.fromkeys((done[0], done[-1])))
    return f"So far (no trial is finished; cycle {cycles}{of}): "


def _others(settings: Sequence[Aggregate[CycleSetting]], shown: Sequence[Aggregate[CycleSetting]]) -> str:
    missing = sum(not a.finished for a in settings if a not in shown)
    if not missing:
        return ""
    return f" {missing} more {'setting has' if missing == 1 else 'settings have'} no finished trial yet."


def _collapses(settings: Sequence[Aggregate[CycleSetting]] | Sequence[Aggregate[TransferSetting]]) -> str:
    collapsed = sum(len(a.collapsed) for a in settings)
    if not collapsed:
        return ""
    trials = "1 more trial collapsed and is" if collapsed == 1 else f"{collapsed} more trials collapsed and are"
    return f" {trials} in no figure."


def _count(settings: Sequence[Aggregate[CycleSetting]]) -> str:
    trials = sum(len(a.seeds) + len(a.collapsed) for a in settings)
    return f"{trials} trial" if trials == 1 else f"{trials} trials"


def _best_control(found: Aggregate[CycleSetting]) -> str | None:
    known = {name: value.mean for name, value in found.controls.items() if found.margins.get(name, NONE).n}
    if len(known) > 1:
        known.pop(UNMATCHED, None)  # frozen rows of smaller norms have smaller scores: no rival to the others
    return max(known, key=lambda name: known[name]) if known else None


def _norms(control: str) -> str:
    return "of norm 1" if control == UNMATCHED else "matched in norm"


def _with_interval(value: Estimate, write: Callable[[Estimate], str]) -> str:
    return write(value).replace(" [", " [95% interval ", 1)


def _name(found: Aggregate[CycleSetting]) -> str:
    setting = found.setting
    parts = [f"k = {setting.k}", f"{'τ = ' if setting.core_size is None else ''}{setting.selects}"]
    return ", ".join([*parts, *([axes_label(setting.axes)] if setting.axes else [])])


def _cycle(found: Sequence[Aggregate[CycleSetting]]) -> str:
    if not all(a.finished for a in found):
        return "the last finished cycle"
    return "the last cycle"


def _seeds(found: Sequence[Aggregate[CycleSetting]] | Sequence[Aggregate[TransferSetting]]) -> str:
    counts = sorted({len(a.seeds) for a in found})
    text = "-".join(str(c) for c in dict.fromkeys((counts[0], counts[-1])))
    return f"{text} seed" if text == "1" else f"{text} seeds"


def _points(difference: float) -> str:
    return f"{100 * difference:+.0f} points"


def _between(values: Sequence[float], form: str = "{:.0%}") -> str:
    low, high = form.format(min(values)), form.format(max(values))
    return low if low == high else f"{low} to {high}"


def _reach(found: Sequence[Aggregate[TransferSetting]], metric: str, digits: int) -> str:
    values = [a.metrics[metric] for a in found if a.metrics[metric].n]
    if len(values) == 1:
        return values[0].text(digits)
    return _between([v.mean for v in values], f"{{:.{digits}f}}") if values else "an unknown size"
