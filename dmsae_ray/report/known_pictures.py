"""The figures of the benchmark with known features."""

from typing import TYPE_CHECKING

from dmsae_ray.report.estimates import Estimate, estimate
from dmsae_ray.report.known_features import COMPARISONS, VARIANTS, KnownFeatures
from dmsae_ray.report.paired import paired
from dmsae_ray.report.picture import Cell, Picture
from dmsae_ray.report.plots import by_name, colour, legend_below, marker, panels

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

NAME = "groundtruth"
LONGEST = 20
"""Letters of a regime's name in the title of a panel."""
MISSING = paired({}, {})
"""A difference that no seed has."""


def pictures(known: KnownFeatures) -> list[Picture]:
    """Return the figures."""
    return [p for p in (_score_picture(known), _rival_picture(known), _purity_picture(known)) if p.rows]


def _score_picture(known: KnownFeatures) -> Picture:
    scores = [s for s in known.scores if s != "random"] + [s for s in known.scores if s == "random"]
    rows: list[tuple[Cell, ...]] = [
        (regime, score, r.seed, r.scores[score]["dictionary"], r.scores[score]["pool"])
        for regime in known.regimes
        for score in scores
        for r in known.of(regime)
        if score in r.scores
    ]

    def draw() -> "Figure":
        figure, axes = panels(len(known.regimes), width=3.1, height=2.9, columns=3)
        for axis, regime in zip(axes, known.regimes, strict=True):
            here = [score for score in scores if known.score(regime, score)]
            sets = (("dictionary", "all latents"), *([] if known.pool_is_all else [("pool", "the pool")]))
            every = [
                (label, [estimate(known.score(regime, score, over).values(), "difference") for score in here])
                for over, label in sets
            ]
            by_name(axis, every, here, dots=False)
            axis.axvline(0, color="#59636E", linewidth=0.8)
            _title(axis, regime, [one.n for _, values in every for one in values])
            axis.set_xlabel("rank correlation")
        legend_below(figure, axes)
        return figure

    return Picture(
        f"{NAME}_scores",
        "Which score ranks latents by what matters",
        "Spearman's rank correlation of scores of cycle 0's latents with the importance of the feature that each "
        "recovers. Dots are means over seeds, bars 95% intervals. Right is better; 0 is chance.",
        ("regime", "score", "seed", "dictionary", "pool"),
        rows,
        draw,
    )


def _rival_picture(known: KnownFeatures) -> Picture:
    found = known.differences("importance")
    rows: list[tuple[Cell, ...]] = [
        (*key, d.mean, d.low, d.high, d.n, d.p, int(d.shown), " ".join(f"{v:.6g}" for v in d.values))
        for key, d in found.items()
    ]

    def draw() -> "Figure":
        figure, axes = panels(len(known.regimes), width=4.6, height=3.3, columns=2)
        for axis, regime in zip(axes, known.regimes, strict=True):
            texts = [c.text for c in COMPARISONS if any((regime, v, c.text) in found for v in VARIANTS)]
            each = [[found.get((regime, variant, text), MISSING) for text in texts] for variant in VARIANTS]
            every = [
                (f"{variant} core", [Estimate(d.mean, d.low, d.high, d.n, d.values) for d in values])
                for variant, values in zip(VARIANTS, each, strict=True)
            ]
            hollow = [[not d.shown for d in values] for values in each]
            by_name(axis, every, [_short(text) for text in texts], dots=False, hollow=hollow)
            axis.axvline(0, color="#59636E", linewidth=0.8)
            _title(axis, regime, [d.n for values in each for d in values])
            axis.set_xlabel("difference in the share of importance")
        legend_below(figure, axes)
        return figure

    return Picture(
        f"{NAME}_rivals",
        "Cores against rivals of the same size",
        "Paired differences over seeds in the share of all importance that is recovered, with intervals at Holm's "
        "levels: all differences of the figure are corrected together, and a filled marker is shown at 5%.",
        ("regime", "core", "comparison", "mean", "low", "high", "n", "p", "shown", "seeds"),
        rows,
        draw,
    )


def _purity_picture(known: KnownFeatures) -> Picture:
    rows: list[tuple[Cell, ...]] = [
        (r.regime, variant, r.seed, c["cycle"], c["share_of_width"], c["purity"], c["purity_encoder"], c["frequency"])
        for r in known.replicas
        for variant in VARIANTS
        for c in r.cores.get(variant, [])
    ]

    def draw() -> "Figure":
        figure, axes = panels(3, width=3.2, height=2.7)
        for axis, (place, label) in zip(
            axes,
            ((5, "purity of decoder rows"), (6, "purity of encoder rows"), (7, "share of tokens at which it fires")),
            strict=True,
        ):
            for n, variant in enumerate(VARIANTS):
                shown = [row for row in rows if row[1] == variant]
                axis.scatter(
                    [float(row[4] or 0) for row in shown],
                    [float(row[place] or 0) for row in shown],
                    s=14,
                    color=colour(n),
                    marker=marker(n),
                    alpha=0.6,
                    linewidths=0,
                    label=f"{variant} core",
                )
            axis.set_ylim(-0.03, 1.03)
            axis.set_xlabel("core size over width, |C| / d")
            axis.set_title(label)
        legend_below(figure, axes)
        return figure

    return Picture(
        f"{NAME}_purity",
        "What becomes of a core",
        "Each dot is the core of one cycle, regime and seed, within the SAE that is trained around it. Purity is the "
        "share of rows with a cosine of 0.9 (decoder) or 0.7 (encoder) to any feature.",
        ("regime", "core", "seed", "cycle", "share_of_width", "purity", "purity_encoder", "frequency"),
        rows,
        draw,
    )


def _title(axis: "Axes", regime: str, counts: list[int]) -> None:
    """Write what a panel is of, and how many seeds are behind its points; the end of a long name says which it is."""
    there = sorted({n for n in counts if n})
    n = " to ".join(map(str, dict.fromkeys((there[0], there[-1])))) if there else "0"
    name = regime if len(regime) <= LONGEST else f"…{regime[1 - LONGEST :]}"
    between = ", " if len(name) <= LONGEST // 2 else "\n"
    axis.set_title(f"{name}{between}n = {n}")


def _short(text: str) -> str:
    return text.replace("best of the dictionary", "dictionary").replace(", decoder of cycle 0", " (decoder 0)")
