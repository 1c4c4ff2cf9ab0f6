"""The tables of the benchmark with known features."""

from collections.abc import Mapping, Sequence
from typing import Any

from dmsae_ray.report.estimates import Estimate, Scale, estimate
from dmsae_ray.report.known_features import COMPARISONS, VARIANTS, KnownFeatures
from dmsae_ray.report.paired import Difference
from dmsae_ray.report.tables import Table

METRICS = {
    "importance": "share of all importance",
    "recall": "recall of the n most important features",
    "precision": "precision",
}
STAR = "* not 0 at 5%, all of the table corrected together (Holm)"
_SCORE_TABLES = {
    "dictionary": "Rank correlation of scores with the true importance, over all latents of cycle 0",
    "pool": "Rank correlation of scores with the true importance, over the pool of cycle 0",
    "best": "Importance recovered by the best latents of cycle 0, as many as there are important features",
}
_SCORE_SCALES: dict[str, Scale] = {"dictionary": "difference", "pool": "difference", "best": "share"}
_CORE_COLUMNS: tuple[tuple[str, Scale], ...] = (
    ("size", "amount"),
    ("share_of_width", "amount"),
    ("purity", "share"),
    ("purity_encoder", "share"),
    ("frequency", "share"),
)

_QUALITY: dict[str, Scale] = {"l0": "amount", "fvu": "amount", "loss_recovered": "real"}


def tables(known: KnownFeatures) -> list[Table]:
    """Return the tables."""
    made = [_score_table(known, "dictionary"), _score_pairs(known)]
    made += [_score_table(known, "best"), *([] if known.pool_is_all else [_score_table(known, "pool")])]
    made += [_rivals(known, metric) for metric in METRICS]
    made += [_cores(known), _rediscovered(known)]
    made += [t for t in (_transfer_table(known),) if t is not None]
    return [t for t in made if t.rows]


def _head(known: KnownFeatures, first: str) -> tuple[str, ...]:
    return (first, *(f"{regime}\nn = {len(known.of(regime))}" for regime in known.regimes))


def _score_table(known: KnownFeatures, over: str) -> Table:
    def cell(regime: str, score: str) -> str:
        found = estimate(known.score(regime, score, over).values(), _SCORE_SCALES[over])
        return _with_n(found.text(), found.n, len(known.of(regime)))

    rows = [(score, *(cell(regime, score) for regime in known.regimes)) for score in known.scores]
    return Table(_SCORE_TABLES[over], _head(known, "score"), tuple(rows))


def _score_pairs(known: KnownFeatures) -> Table:
    texts = dict.fromkeys(text for _, text in known.score_differences)
    rows = [(text, *(_cell(known, known.score_differences, (r, text)) for r in known.regimes)) for text in texts]
    return Table(f"Differences of these, all latents; {STAR}", _head(known, "scores"), tuple(rows))


def _rivals(known: KnownFeatures, metric: str) -> Table:
    found = known.differences(metric)
    rows = []
    for variant in VARIANTS:
        for c in COMPARISONS:
            cells = [_cell(known, found, (r, variant, c.text)) for r in known.regimes]
            if any(cell != "-" for cell in cells):
                rows.append((f"{variant}: {c.text}", *cells))
    return Table(f"Sets of equal size: {METRICS[metric]}; {STAR}", _head(known, "difference"), tuple(rows))


def _cell(known: KnownFeatures, found: Mapping[Any, Difference], key: tuple[str, ...]) -> str:
    d = found.get(key)
    if d is None:
        return "-"
    return _with_n(d.text(), d.n, len(known.of(key[0])))


def _with_n(text: str, n: int, whole: int) -> str:
    """Return a cell that says its n where the head of its table or row says another."""
    return text + (f", n = {n}" if 0 < n < whole else "")


def _cells(found: Sequence[Estimate], digits: Sequence[int]) -> tuple[str, ...]:
    """Return n and cells that say theirs where it is another."""
    n = max(one.n for one in found)
    return (str(n), *(_with_n(one.text(d), one.n, n) for one, d in zip(found, digits, strict=True)))


def _cores(known: KnownFeatures) -> Table:
    rows = []
    for regime in known.regimes:
        for variant in VARIANTS:
            cycles = sorted({int(c["cycle"]) for r in known.of(regime) for c in r.cores.get(variant, [])})
            for cycle in cycles:
                found = [
                    estimate(known.core(regime, variant, cycle, name).values(), scale) for name, scale in _CORE_COLUMNS
                ]
                rows.append((f"{regime}, {variant}", str(cycle), *_cells(found, [2] * len(found))))
    head = ("core", "cycle", "n", "size", "size over\nwidth", "purity", "purity of\nencoder", "fires at")
    return Table("Cores within the SAE that is trained around them", head, tuple(rows))


def _rediscovered(known: KnownFeatures) -> Table:
    names = list(dict.fromkeys(name for r in known.replicas for name in r.rediscovery))
    measures = ("encoder_mean", "encoder_0.7", "encoder_0.9", "decoder_mean", "decoder_0.7", "decoder_0.9")
    rows = []
    for regime in known.regimes:
        for name in names:
            found = [
                estimate(known.found_again(regime, name, m).values(), "difference" if m.endswith("mean") else "share")
                for m in measures
            ]
            if any(one.n for one in found):
                rows.append((f"{regime}, {name}", *_cells(found, [2] * len(found))))
    head = ("set", "n", *(m.replace("_", "\n") for m in measures))
    title = "Rediscovery by an SAE of another seed on other tokens: best cosine one to one, shares at a limit"
    return Table(title, head, tuple(rows))


def _transfer_table(known: KnownFeatures) -> Table | None:
    rows = []
    for regime in known.regimes:
        for arm in dict.fromkeys(name for r in known.of(regime) for name in r.transfer):
            found = [estimate(known.quality(regime, arm, m).values(), scale) for m, scale in _QUALITY.items()]
            rows.append((f"{regime}, {arm}", *_cells(found, (1, 3, 3))))
    head = ("trained around", "n", "L0", "FVU", "loss\nrecovered")
    return Table("Transfer: fresh SAEs around the distilled core of the dense run", head, tuple(rows)) if rows else None
