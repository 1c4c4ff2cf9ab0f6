"""What the card of a published SAE says of its numbers; each is one of the sweep's report."""

import math
from collections.abc import Sequence

from dmsae_ray.evaluation import QUALITY
from dmsae_ray.plan import CycleSetting
from dmsae_ray.report.core_rivals import DISTILLED, IN_FIRST, RIVALS
from dmsae_ray.report.estimates import FEWEST, NONE, Estimate, estimate
from dmsae_ray.report.finding import UNMATCHED
from dmsae_ray.report.found_again import BY, LIMITS, SETS
from dmsae_ray.report.published_sae import PublishedSAE, in_words, table
from dmsae_ray.report.quality_metrics import OWN, says, scale_of, shown_metrics
from dmsae_ray.report.rediscovery_tables import SAME, STAR, Rediscovered, often_found
from dmsae_ray.report.report import CAVEAT
from dmsae_ray.saebench import SUITE

_MOST_LISTED = 40
_SETS = (
    "*distilled* is the core in this trial's last SAE, *distilled, in cycle 0* the same latents where they were "
    "learned; *best of cycle 0* are as many latents of the best scores; *chance* is the core against directions that "
    "mean nothing."
)
SHOWN: tuple[tuple[str, str, int | None], ...] = (
    ("L0: latents that fire at a token", "l0", 1),
    ("- of the core", "l0_core", 1),
    ("- of the others", "l0_non_core", 1),
    ("FVU: share of the variance not explained", "fvu", 3),
    ("Loss recovered: 1 is the model's own loss, 0 that with the layer zeroed", "loss_recovered", 3),
    ("Dead: latents that never fired", "dead_fraction", None),
    ("- of the core's", "core_dead_fraction", None),
    ("Share of the tokens at which a core latent fires: median", "core_frequency_median", None),
    ("- the most frequent one", "core_frequency_max", None),
)
"""What it is called, its name among the metrics, and its digits; None for a share that is written in percent."""
_MEANINGS = {name.name: name.meaning for name in QUALITY}


def measured_part(one: PublishedSAE) -> str:
    """Show what was measured of the SAE, beside the mean over the seeds of its setting."""
    if not one.report.metrics:
        return "Nothing was measured of this SAE."
    found, several = _estimates(one), _has_seeds(one)
    rows = []
    for name, key, digits in SHOWN:
        value = own_number(one, key, digits)
        if value != "-" and (one.sae.n_core or "core" not in key):
            rows.append([name, value, *([_written(found.get(key, NONE), digits)] if several else [])])
    head = ["", "this SAE", *([_over(one)] if several else [])]
    troubles = "".join(f"\n\nIn training: {name} at step {step:,}." for name, step in one.report.troubles.items())
    return f"{_seeds_said(one)}\n\n{table(head, rows)}{troubles}"


def quality_part(one: PublishedSAE) -> str:
    """Show what `dmsae eval` has measured of the SAE, or say how it can be had."""
    found, rows, said = one.quality, [], []
    several = found is not None and bool(set(found.seeds) - {one.result.trial.seed})
    for evaluation in (OWN, *SUITE) if found is not None else ():
        assert found is not None, "there is something to show"
        for shown in shown_metrics(evaluation):
            name = f"{evaluation}/{shown.name}"
            value = _number(found.own.get(name), 3)
            if value == "-":
                continue
            values = [metrics.get(name) for metrics in found.seeds.values()]
            over = estimate(values, scale_of(name))  # as on the page of `dmsae eval`
            label = _MEANINGS[shown.name] if evaluation == OWN else f"SAEBench, {evaluation}: {shown.label}"
            better = "" if shown.better == "neither" else f" ({shown.better} is better)"
            fewer = f", n = {over.n}" if over.n < len(found.seeds) else ""
            rows.append([f"{label}{better}", value, *([f"{over.text(3)}{fewer}"] if several else [])])
            said.append(evaluation)
    if found is None or not rows:
        return "This SAE was not measured by SAEBench, nor by more of our own measures (`dmsae eval SWEEP` does both)."
    head = ["", "this SAE", *([_over_seeds(sorted(found.seeds))] if several else [])]
    named = [f"*{name}*, {says(name)}" for name in dict.fromkeys(said) if name != OWN]
    bench = f" SAEBench's definitions and texts are its own ({'; '.join(named)})." if named else ""
    return f"Measured by `dmsae eval`, on held-out tokens of the same text.{bench}\n\n{table(head, rows)}"


def core_part(one: PublishedSAE) -> str:
    """Show how the core grew, where its latents were learned, and where they are in this SAE."""
    if not isinstance(one.result.setting, CycleSetting):
        if one.core is None:
            return ""
        return (
            f"`core.safetensors` is the core that was given, the encoder rows of the first {len(one.core)} latents. "
            "Its header says the lineage of each row, and which training learned it."
        )
    sizes = one.result.core_sizes
    parts = [table(["cycle", *map(str, range(len(sizes)))], [["latents selected", *map(str, sizes)]])]
    if one.is_control:
        parts.insert(0, "That of the trial, which this control stands against:")
    head = ["born in cycle", "selected then", "in the last core"]
    rows = [[str(birth), str(alive[0]), str(alive[-1])] for birth, alive in sorted(one.result.survival.items())]
    if one.core is not None:
        head.append("distilled")
        rows = [[*row, str(sum(str(i.cycle) == row[0] for i in one.core.lineage))] for row in rows]
    if rows:
        parts += ["Where the latents were learned, and how many stayed:", table(head, rows)]
    if one.places:
        shown = ", ".join(map(str, one.places[:_MOST_LISTED]))
        more = f", … (all {len(one.places)} in `metrics.json`)" if len(one.places) > _MOST_LISTED else ""
        parts.append(f"The distilled core's latents in this SAE, best score first: {shown}{more}.")
    if one.core is not None and not len(one.core):
        parts.append("No latent was selected every time: the distilled core is empty.")
    return "\n\n".join(parts)


def carryover_part(one: PublishedSAE) -> str:
    """Show the carryover of the last cycle beside what it must be compared with."""
    last, over = one.result.last, one.over_seeds
    if last.carryover is None:
        return ""
    transfer = not isinstance(one.result.setting, CycleSetting)
    several = _has_seeds(one)
    rows = [
        ("**Carryover**: share of the core that was selected again", last.carryover, over.carryover if over else NONE),
        ("Chance: a core drawn at random from the pool", last.chance, over.chance if over else NONE),
    ]
    for name, control in one.result.controls.items():
        estimates = (over.controls.get(name, NONE), over.margins.get(name, NONE)) if over else (NONE, NONE)
        norms = "of norm 1" if name == UNMATCHED else "same norms"
        rows.append((f"Control: a {in_words(name)} core, {norms}", control.carryover, estimates[0]))
        margin = None if control.carryover is None else last.carryover - control.carryover
        rows.append(("- carryover less this control's, seed by seed", margin, estimates[1]))
    rows.append(
        ("Test-retest: two halves of the tokens select from one SAE", last.retest, over.retest if over else NONE)
    )
    cells = [
        [name, _number(value, 2), *([estimate.text()] if several else [])]
        for name, value, estimate in rows
        if value is not None or estimate.n
    ]
    head = ["", f"seed {one.result.trial.seed}", *([_over(one)] if several else [])]
    count = "" if last.carried is None else f" ({last.carried} of {last.n_core_in} latents)"
    if transfer:
        lead = f"Of the frozen core, {last.carryover:.0%}{count} would be selected again from this SAE, of this seed. "
        lead += "This tells how useful its latents are here, not whether another training finds them."
    else:
        whose = "trial's own core, which this control stands against" if one.is_control else "core"
        lead = (
            f"Of the {whose}, {last.carryover:.0%}{count} was selected again in the last cycle, {last.cycle}, of this "
        )
        lead += f"seed. {CAVEAT} Where test-retest is no higher, other tokens alone may explain what changed."
    return f"{lead}\n\n{table(head, cells)}"


def rediscovery_part(one: PublishedSAE) -> str:
    """Say whether SAEs of other seeds have the core's latents, where it was measured."""
    setting = one.result.setting
    if not isinstance(setting, CycleSetting) or one.core is None or not len(one.core):
        return ""
    if one.result.collapse:
        return "Not measured of this trial, since it collapsed."
    parts = []
    similar = one.over_seeds.consistency if one.over_seeds else None
    if similar is not None and similar.mean is not None:
        pairs = "one pair of seeds"
        if similar.pairs > 1:
            pairs = f"{similar.pairs} pairs of seeds (lowest {similar.low:.2f}, highest {similar.high:.2f})"
        chance = ""
        if similar.chance is not None:
            middle = f"{similar.chance_low:.2f} to {similar.chance_high:.2f}"
            chance = f"; random parts of the candidate pools have {similar.chance:.2f} (95% of them {middle})"
        parts.append(
            f"The distilled cores of different seeds, matched one to one, have a mean cosine (PW-MCC) of "
            f"{similar.mean:.2f} over {pairs}{chance}."
        )
    numbers = None if one.found is None else Rediscovered(one.found)
    names = [n for n in SETS if numbers is not None and numbers.values(setting, SAME, n, "mean decoder")]
    if one.found is None or numbers is None or not names:
        parts.append("Whether SAEs of other seeds have its latents was not measured (`dmsae stability SWEEP` does it).")
        return "\n\n".join(parts)
    seen = f", correlations of activations on {one.found.tokens:,} held-out tokens" if one.found.tokens else ""
    parts.append(
        "SAEs of other seeds, trained without this core, were searched for its latents. Beside it stand sets of "
        f"as many latents of cycle 0. Cosines of rows{seen}, matched one to one."
    )
    measures = [*(f"mean {by}" for by in BY), f"decoder {LIMITS[0]}"]
    measures = [m for m in measures if any(numbers.values(setting, SAME, n, m) for n in names)]
    rows = [[name, *(numbers.estimate(setting, SAME, name, m).text() for m in measures)] for name in names]
    n = max(len(numbers.values(setting, SAME, name, "mean decoder")) for name in names)
    head = ["set", *(m if m.startswith("mean") else f"decoder at {LIMITS[0]} or more" for m in measures)]
    parts.append(table(head, rows))
    parts.append(f"Means over {_seeds(n)}{_brackets(n)}; in the last column a share of the latents. {_SETS}")
    parts += _less_best(numbers, setting)
    own = [latent for latent in one.found.latents if latent.trial == one.result.trial_id]
    if own:
        parts.append(often_found(own).replace("latents of distilled cores", "latents of this distilled core"))
    return "\n\n".join(parts)


def _less_best(numbers: Rediscovered, setting: CycleSetting) -> list[str]:
    """Return in a sentence how the core compares with the best latents of cycle 0, paired by seed."""
    measure, said, tested = f"decoder {LIMITS[0]}", [], False
    for arm in (DISTILLED, IN_FIRST):
        found = numbers.differences(measure, arm).get((setting, SAME, RIVALS[0]))
        if found is not None and found.n:
            said.append(f"*{arm}* {found.text()}")
            tested = tested or found.p is not None
    if not said:
        return []
    star = f" ({STAR}.)" if tested else ""
    return [f"The share in the last column less that of *{RIVALS[0]}*, paired by seed: {'; '.join(said)}.{star}"]


def limits_part(one: PublishedSAE) -> str:
    """List what the numbers do not show."""
    over, filters = one.over_seeds, one.experiment.activations
    lines = []
    if one.result.last.carryover is not None:
        lines.append("Carryover is not rediscovery: frozen rows are copied, not found again.")
    if one.sae.n_dense:
        lines.append(
            f"The core is dense, so that L0 is above the target of k = {one.sae.k}: compare with other SAEs at "
            "measured L0, not at nominal k. A dense core latent may fire at nearly every token and lose its feature."
        )
    n = 0 if over is None else len(over.seeds)
    if n < FEWEST:
        lines.append(f"With {_seeds(n)} there is no interval: nothing is shown about differences between settings.")
    elif over is not None:
        lines.append(f"Intervals are over {_seeds(n)} of one model, one layer and one text.")
    lines.append("Held-out tokens are of the same text as the training tokens; other text was not tried.")
    if filters.drop_bos and one.about["text"]["begins"]:
        lines.append("BOS positions were left out of the training: what latents do there means nothing.")
    lines.append("No latent was explained or checked by a person or a model.")
    if one.about["model"] == "tiny":
        lines.append("The language model is a tiny test model: this SAE is no evidence for or against the method.")
    return "\n".join(f"- {line}" for line in lines)


def _estimates(one: PublishedSAE) -> dict[str, Estimate]:
    """Return the metrics over the seeds that belong to this training; none for a cycle between first and last."""
    over = one.over_seeds
    if over is None:
        return {}
    if one.is_control:
        return over.control_metrics.get(one.report.arm, {})
    if one.is_last:
        return over.metrics
    return over.initial_metrics if one.report.n_core_in == 0 else {}


def _has_seeds(one: PublishedSAE) -> bool:
    """Return whether a column over the seeds says more than the seed's own."""
    if one.over_seeds is None:
        return False
    return bool(set(one.over_seeds.seeds) - {one.result.trial.seed})


def _over(one: PublishedSAE) -> str:
    return _over_seeds(() if one.over_seeds is None else one.over_seeds.seeds)


def _over_seeds(seeds: Sequence[int]) -> str:
    n = len(seeds)
    return f"seed {seeds[0]}" if n == 1 else f"mean over {_seeds(n)}{_brackets(n)}"


def _brackets(n: int) -> str:
    return " [95% interval]" if n >= FEWEST else " (both values)" if n == 2 else ""


def _seeds(n: int) -> str:
    return "no seed" if n == 0 else "1 seed" if n == 1 else f"{n} seeds"


def _seeds_said(one: PublishedSAE) -> str:
    """Say which seeds of the setting are behind the means."""
    out = " (but what is left out of all)" if one.experiment.activations.drop_bos else ""
    over, tokens = one.over_seeds, f"On {one.experiment.corpus.eval_tokens:,} held-out tokens{out}."
    if over is None:
        return tokens
    seeds = ", ".join(map(str, over.seeds)) or "none"
    setting = f"The setting ({one.result.setting.label})"
    which = f"{setting} was trained with the seeds {seeds}"
    if len(over.seeds) == 1:
        which = f"{setting} has one seed, {seeds}, so that there is no mean and no interval"
    if over.collapsed:
        gone = ", ".join(f"{seed} ({reason})" for seed, reason in sorted(over.collapsed.items()))
        which += f"; collapsed, and in no mean: {gone}"
    if over.stopped:
        which += f"; stopped early by what they reported, and in no mean: {', '.join(map(str, over.stopped))}"
    if go_on := [seed for seed in over.running if seed not in over.stopped]:
        which += f"; not finished yet: {', '.join(map(str, go_on))}"
    between = not _estimates(one) and _has_seeds(one)
    return f"{tokens} {which}." + (" Means over seeds are of the last cycle only." if between else "")


def own_number(one: PublishedSAE, key: str, digits: int | None) -> str:
    """Return a metric of the SAE itself as text; '-' where it was not measured."""
    return _number(one.report.metrics.get(key), digits)


def _number(value: float | None, digits: int | None) -> str:
    if value is None or math.isnan(value):
        return "-"
    return f"{value:.0%}" if digits is None else f"{value:.{digits}f}"


def _written(value: Estimate, digits: int | None) -> str:
    return value.percent() if digits is None else value.text(digits)
