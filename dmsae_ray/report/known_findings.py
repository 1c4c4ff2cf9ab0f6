"""What the benchmark with known features shows, in sentences, whatever it is."""

import math

from dmsae_ray.report.estimates import FEWEST, estimate
from dmsae_ray.report.known_features import AT_FIRST_SIZE, AT_LAST_SIZE, OWN, VARIANTS, KnownFeatures
from dmsae_ray.report.known_scores import Judged, judged, own_scores
from dmsae_ray.report.paired import paired

NOTHING = 1e-6
"""A share of the importance below this is rounding."""


def findings(known: KnownFeatures) -> list[str]:
    """Return what the replicas show, a sentence each, whatever it is."""
    found = [
        *_repeated(known),
        *_collapsed(known),
        _nothing(known),
        _empty(known),
        _subset(known),
        _first(known),
        *_wrong(known),
        _ranks(known),
        _last(known),
    ]
    return [line for line in (*found, _densifies(known), _transfers(known)) if line]


def _repeated(known: KnownFeatures) -> list[str]:
    """Say which replicas are no more than one, and which have one world."""
    copies = [f"{r.regime} seed {r.seed} is seed {first.seed}" for r, first in known.copies]
    found = [f"Counted once, since they are the same in every number: {', '.join(copies)}."] if copies else []
    for regime in known.regimes:
        worlds = [r.world for r in known.of(regime) if r.world]
        count = len(set(worlds))
        if count < len(worlds):
            share = "one world" if count == 1 else f"{count} worlds"
            found.append(
                f"The {len(worlds)} replicas of {regime} share {share} (by fingerprint): they differ in their tokens "
                "and trainings only, and their intervals say nothing of other worlds."
            )
    return found


def _nothing(known: KnownFeatures) -> str:
    """Say where no set of latents recovers anything that matters."""
    lost = []
    for regime in known.regimes:
        found = [
            [arm["importance"] for arms in r.arms.values() for arm in arms.values()]
            + [score["best"] for score in r.scores.values() if not math.isnan(score["best"])]
            for r in known.of(regime)
        ]
        none = sum(bool(values) and max(values) < NOTHING for values in found)
        lost += [f"{regime} ({none} of {len(found)} seeds)"] if none else []
    if not lost:
        return ""
    return f"Nothing of the importance is recovered in {', '.join(lost)}: there the comparisons say nothing."


def _collapsed(known: KnownFeatures) -> list[str]:
    lost = [f"{r.regime} seed {r.seed} ({v}, {why})" for r in known.replicas for v, why in r.collapsed.items() if why]
    return [f"Collapsed, and in no number: {', '.join(lost)}."] if lost else []


def _empty(known: KnownFeatures) -> str:
    lost = [
        f"{r.regime} seed {r.seed} ({variant})"
        for r in known.replicas
        for variant, sizes in r.sizes.items()
        if sizes[-1] == 0 and r.collapsed[variant] is None
    ]
    return f"Nothing came back in every cycle, so that C* is empty and in no number: {', '.join(lost)}." if lost else ""


def _subset(known: KnownFeatures) -> str:
    each = [inside for r in known.replicas for variant, inside in r.in_first.items() if r.sizes[variant][-1]]
    if not each:
        return ""
    return f"Every row of C* is a row of C_0, bit for bit, in {sum(each)} of {len(each)} runs."


def _first(known: KnownFeatures) -> str:
    """Say whether the distilled core beats the best of C_0 at its size."""
    found = known.differences("importance")
    there = [(key, d) for key, d in found.items() if key[2] == AT_FIRST_SIZE[0].text]
    if not there:
        return ""
    shown = [(key, d) for key, d in there if d.p is not None]
    if not shown:
        return "There are too few seeds to compare the distilled core with its rivals."
    better = [f"{r} ({v}) {d.text()}" for (r, v, _), d in shown if d.shown and d.mean > 0]
    worse = [f"{r} ({v}) {d.text()}" for (r, v, _), d in shown if d.shown and d.mean < 0]
    text = "Against as many best-scoring latents of cycle 0, the distilled core holds more importance in "
    text += f"{len(better)} of {len(shown)} settings" + (f": {'; '.join(better)}" if better else "")
    text += f", and less in {len(worse)}" + (f": {'; '.join(worse)}" if worse else "")
    return text + "."


def _wrong(known: KnownFeatures) -> list[str]:
    """Say which scores do not rank latents by what matters: the one that selected the cores, and those of one's own."""
    selected = ", ".join(f"'{name}'" for name in dict.fromkeys(r.score for r in known.replicas))
    found = [f"Wrong score: {selected}, which selected the cores, {text}." for text in _faults(judged(known, OWN))]
    own = {name: judged(known, name) for name in own_scores(known)}
    others = [f"'{name}', which was only compared, {text}" for name in own for text in _faults(own[name])]
    found += [f"Wrong scores: {'; '.join(others)}."] if others else []
    found += _unknown(judged(known, OWN), selected)
    return found + [line for name in own for line in _unknown(own[name], f"'{name}'")]


def _faults(all_of: list[Judged]) -> list[str]:
    """Return what is wrong with a score."""
    wrong = [j.text for j in all_of if j.answer == "wrong"]
    constant = [j.regime for j in all_of if j.answer == "constant"]
    found = [f"ranks nothing in {', '.join(constant)}: all latents have one score"] if constant else []
    if wrong:
        text = f"does not rank latents by what matters in {len(wrong)} of {len(all_of)} regimes"
        found.append(f"{text} (rank correlation with the true importance; 0 is chance): {'; '.join(wrong)}")
    return found


def _unknown(all_of: list[Judged], names: str) -> list[str]:
    """Say where the seeds are too few to judge a score."""
    left = [j for j in all_of if j.answer == "not shown"]
    if not left:
        return []
    counts = sorted({j.rank.n for j in left})
    n = " to ".join(map(str, dict.fromkeys((counts[0], counts[-1]))))
    text = (
        f"n = {n} {'seed is' if n == '1' else 'seeds are'} too few to say whether {names} ranks latents by what matters"
    )
    none = f"; with fewer than {FEWEST} no score can be judged" if counts[0] < FEWEST else ""
    return [f"{text}{none}: {'; '.join(j.text for j in left)}."]


def _ranks(known: KnownFeatures) -> str:
    parts = []
    for regime in known.regimes:
        means = {s: estimate(known.score(regime, s).values()).mean for s in known.scores if s != OWN}
        ranked = sorted((s for s in means if not math.isnan(means[s])), key=lambda s: -means[s])
        shown = [f"{s} {means[s]:.2f}" for s in ranked[:3]]
        own = estimate(known.score(regime, OWN).values()).mean
        of_own = "-" if math.isnan(own) else f"{round(own, 2) + 0.0:.2f}"
        if ranked:
            parts.append(f"{regime}: {', '.join(shown)} ({OWN} {of_own})")
    return f"Rank correlation with the true importance, the three best scores: {'; '.join(parts)}." if parts else ""


def _last(known: KnownFeatures) -> str:
    found = known.differences("importance")
    parts = []
    for c in AT_LAST_SIZE:
        each = [d for (_, _, text), d in found.items() if text == c.text and d.p is not None]
        if each:
            more, less = (sum(d.shown and sign * d.mean > 0 for d in each) for sign in (1, -1))
            parts.append(f"{c.rival}: more in {more}, less in {less} of {len(each)}")
    return f"The last core's importance against as many of the {'; the '.join(parts)}." if parts else ""


def _densifies(known: KnownFeatures) -> str:
    """Say what becomes of a core while it is handed on: from the first cycle that is trained around one to the last."""
    parts = []
    for variant in VARIANTS:
        fires = [c["frequency"] for r in known.replicas for c in r.cores.get(variant, [])]
        if not fires:
            continue
        changes = []
        for regime in known.regimes:
            cycles = sorted({int(c["cycle"]) for r in known.of(regime) for c in r.cores.get(variant, [])})
            if len(cycles) > 1:
                last, first = (known.core(regime, variant, cycle, "purity") for cycle in (cycles[-1], cycles[0]))
                d = paired(last, first, limit=1.0)
                changes += [f"{regime} {d.text()}"] if d.n else []
        if changes:  # with one cycle there are none
            parts.append(
                f"{variant}, which fires at {math.fsum(fires) / len(fires):.0%} of tokens: {', '.join(changes)}"
            )
    return (
        f"Share of a core's decoder rows that point at one feature, last cycle - first: {'; '.join(parts)}."
        if parts
        else ""
    )


def _transfers(known: KnownFeatures) -> str:
    used = [r for r in known.regimes if any(x.transfer for x in known.of(r))]
    if not used:
        return ""
    parts = []
    for regime in used:
        for arm, rival in (
            ("sparse core", "baseline"),
            ("dense core", "baseline at the dense core's L0"),
        ):
            for metric in ("fvu", "loss_recovered"):
                d = paired(known.quality(regime, arm, metric), known.quality(regime, rival, metric))
                parts += [f"{regime}, {arm} - {rival}: {metric} {d.text(3)}"] if d.n else []
    return f"Fresh SAEs around the distilled core: {'; '.join(parts)}." if parts else ""
