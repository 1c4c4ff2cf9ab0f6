"""What the benchmark with known features shows, in sentences, whatever it is."""

import math

from dmsae_ray.report.estimates import estimate
from dmsae_ray.report.known_features import AT_FIRST_SIZE, AT_LAST_SIZE, VARIANTS, KnownFeatures
from dmsae_ray.report.paired import Difference, paired


def findings(known: KnownFeatures) -> list[str]:
    """Return what the replicas show, a sentence each, whatever it is."""
    found = [*_collapsed(known), _subset(known), _first(known), *_wrong(known), _ranks(known), _last(known)]
    return [line for line in (*found, _densifies(known), _transfers(known)) if line]


def _collapsed(known: KnownFeatures) -> list[str]:
    lost = [f"{r.regime} seed {r.seed} ({v}, {why})" for r in known.replicas for v, why in r.collapsed.items() if why]
    return [f"Collapsed, and in no number: {', '.join(lost)}."] if lost else []


def _subset(known: KnownFeatures) -> str:
    each = [inside for r in known.replicas for inside in r.in_first.values()]
    return f"Every row of C* is a row of C_0, bit for bit, in {sum(each)} of {len(each)} runs."


def _first(known: KnownFeatures) -> str:
    """Say whether the distilled core beats the best of C_0 at its size."""
    found = known.differences("importance")
    shown = [(key, d) for key, d in found.items() if key[2] == AT_FIRST_SIZE[0].text and d.p is not None]
    if not shown:
        return "There are too few seeds to compare the distilled core with its rivals."
    better = [f"{r} ({v}) {d.text()}" for (r, v, _), d in shown if d.shown and d.mean > 0]
    worse = [f"{r} ({v}) {d.text()}" for (r, v, _), d in shown if d.shown and d.mean < 0]
    text = "Against as many best-scoring latents of cycle 0, the distilled core holds more importance in "
    text += f"{len(better)} of {len(shown)} settings" + (f": {'; '.join(better)}" if better else "")
    text += f", and less in {len(worse)}" + (f": {'; '.join(worse)}" if worse else "")
    return text + "."


def _wrong(known: KnownFeatures) -> list[str]:
    """Say where the score that selected the cores does not rank latents by what matters."""
    lines = []
    for score in dict.fromkeys(r.score for r in known.replicas):
        bad = []
        for regime in known.regimes:
            used = [r for r in known.of(regime) if r.score == score]
            names = [n for n in (score, f"{score} 0.99") if any(n in r.scores for r in used)]
            test = known.against_chance.get((regime, names[0])) if names else None
            if test is not None and test.p is not None and not (test.shown and test.mean > 0):
                bad.append(f"{regime} {test.text()}")
        if bad:
            lines.append(
                f"Wrong score: '{score}', which selected the cores, does not rank latents by what matters better "
                f"than chance in {len(bad)} of {len(known.regimes)} regimes (rank correlation): {'; '.join(bad)}."
            )
    return lines


def _ranks(known: KnownFeatures) -> str:
    parts = []
    for regime in known.regimes:
        means = {s: estimate(known.score(regime, s).values()).mean for s in known.scores}
        ranked = {s: v for s, v in means.items() if not math.isnan(v)}
        if ranked:
            best = sorted(ranked, key=lambda s: -ranked[s])[:3]
            own = "quantile 0.99"
            said = f"{regime}: {', '.join(f'{s} {ranked[s]:.2f}' for s in best)}"
            parts.append(said + (f" ({own} {ranked[own]:.2f})" if own in ranked and own not in best else ""))
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
    parts = []
    for variant in VARIANTS:
        cores = [c for r in known.replicas for c in r.cores.get(variant, [])]
        if cores:
            cores.sort(key=lambda c: c["share_of_width"])
            third = max(1, len(cores) // 3)
            small, large = (math.fsum(c["purity"] for c in part) / third for part in (cores[:third], cores[-third:]))
            fires = math.fsum(c["frequency"] for c in cores) / len(cores)
            parts.append(
                f"{variant}: fires at {fires:.0%} of tokens, {small:.0%} pure in the third with the smallest cores "
                f"(up to {cores[third - 1]['share_of_width']:.2f} of the width), {large:.0%} in that with the "
                f"largest (from {cores[-third]['share_of_width']:.2f})"
            )
    return f"Decoder rows of cores that point at one feature. {'; '.join(parts)}." if parts else ""


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
                d = paired(*(known.quality(regime, name, metric) for name in (arm, rival)))
                parts.append(f"{regime}, {arm} - {rival}: {metric} {_precise(d)}")
    return f"Fresh SAEs around the distilled core: {'; '.join(parts)}."


def _precise(d: Difference) -> str:
    if d.low is None or d.high is None:
        return f"{d.mean:+.3f}"
    return f"{d.mean:+.3f} [{d.low:+.3f}, {d.high:+.3f}]"
