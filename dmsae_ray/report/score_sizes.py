"""How many latents each score selects, by coverage, and which share of its total the best hold: one curve, read twice.

In: the scored cycles. Out: a figure with its numbers, a table, and what `scores.json` has of them.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from torch import Tensor

from dmsae_ray.report.estimates import Estimate, estimate
from dmsae_ray.report.panels import left_out
from dmsae_ray.report.picture import ESTIMATE_HEAD, Cell, Picture, estimate_cells
from dmsae_ray.report.plots import MOST_PANELS, colour, gradation, legend_below, log_axis, panels, write_title
from dmsae_ray.report.score_agreement import REFERENCE, Agreement, Place
from dmsae_ray.report.tables import Table

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

NAME = "score_sizes"
COVERAGES = (*(n / 20 for n in range(1, 20)), 0.99)
"""Coverages τ at which a curve is kept."""
TABLED = (0.3, 0.5, 0.7, 0.9)
POINTS = 24
"""Counts of latents at which a curve is kept, evenly spaced on a logarithmic scale."""
DRAWN = ("mean_square", "mean", "frequency", REFERENCE)
"""Scores that are drawn beside the quantiles and the run's own."""


@dataclass(frozen=True)
class SizeCurve:
    """The curve of a score at a place, by seed.

    Attributes:
        seeds: the seeds.
        latents: by coverage the number of latents that are selected, of each seed; 0 where no score is positive.
        shares: by number of latents the share of the total that the best hold; None where no score is positive.
    """

    seeds: tuple[int, ...]
    latents: Mapping[float, tuple[int, ...]]
    shares: Mapping[int, tuple[float | None, ...]]

    def size(self, coverage: float) -> Estimate:
        """Return the number of latents at a coverage, over the seeds."""
        return estimate(self.latents[coverage], "amount")

    def share(self, latents: int) -> Estimate:
        """Return the share that the best hold, over the seeds."""
        return estimate(self.shares[latents], "share")


Curves = Mapping[tuple[Place, str], SizeCurve]


def size_curves(agreement: Agreement) -> Curves:
    """Return the curves of all scores, by all tokens: by (place, score)."""
    found = {}
    for place in agreement.places:
        cycles = sorted(agreement.at(place), key=lambda c: c.seed)
        for name in agreement.names:
            own = [(c.seed, c.scores[name][0]) for c in cycles if name in c.scores]
            if not own:
                continue
            sums = [_sums(scores) for _, scores in own]
            counts = np.unique(np.geomspace(1, max(len(scores) for _, scores in own), POINTS).round().astype(int))
            found[place, name] = SizeCurve(
                tuple(seed for seed, _ in own),
                {tau: tuple(_latents(s, tau) for s in sums) for tau in COVERAGES},
                {int(n): tuple(_share(s, int(n)) for s in sums) for n in counts},
            )
    return found


def _sums(scores: Tensor) -> npt.NDArray[np.float64]:
    """Return the sums of the best n positive scores, n = 1, 2, …, added as `distill.select_core` adds them."""
    values = scores.double().numpy()
    sums: npt.NDArray[np.float64] = np.cumsum(np.sort(values[values > 0])[::-1])
    return sums


def _latents(sums: npt.NDArray[np.float64], coverage: float) -> int:
    return int(np.searchsorted(sums, coverage * sums[-1], side="left")) + 1 if len(sums) else 0


def _share(sums: npt.NDArray[np.float64], latents: int) -> float | None:
    return float(sums[min(latents, len(sums)) - 1] / sums[-1]) if len(sums) else None


def size_table(agreement: Agreement, curves: Curves) -> Table:
    """Tabulate the number of latents at a few coverages.

    Args:
        agreement: the scores.
        curves: their curves.
    """
    rows = [
        (
            agreement.label(place),
            str(place.cycle),
            name,
            str(len(curve.seeds)),
            *(curve.size(tau).text(0) for tau in TABLED),
        )
        for (place, name), curve in curves.items()
    ]
    head = ("setting", "cycle", "score", "n", *(f"τ = {tau:g}" for tau in TABLED))
    return Table("Latents that hold a share τ of a score", head, tuple(rows))


def size_numbers(agreement: Agreement, curves: Curves) -> list[dict[str, object]]:
    """Return the curves as JSON, with the numbers of each seed.

    Args:
        agreement: the scores.
        curves: their curves.
    """
    return [
        {
            "setting": agreement.label(place),
            "cycle": place.cycle,
            "score": name,
            "seeds": list(curve.seeds),
            "latents": {f"{tau:g}": list(values) for tau, values in curve.latents.items()},
            "shares": {str(n): list(values) for n, values in curve.shares.items()},
        }
        for (place, name), curve in curves.items()
    ]


def drawn_names(agreement: Agreement, place: Place) -> list[str]:
    """Return the scores that are drawn: the quantiles, those of `DRAWN`, and the run's own.

    Of a score that was computed in several ways (under masks, over parts of the tokens) it is the plainest.
    """
    plainest: dict[str, str] = {}
    for name in sorted(agreement.names, key=len):
        plainest.setdefault(_plain(name), name)
    own = {c.own for c in agreement.at(place)}
    main = {name for plain, name in plainest.items() if plain in DRAWN or plain.startswith("quantile ")}
    return [name for name in agreement.names if name in main | own]


def _plain(name: str) -> str:
    return name.split(" (BatchTopK)")[0].split(", least of")[0]


def size_picture(agreement: Agreement, curves: Curves) -> Picture | None:
    """Return the figure; None where no score is positive.

    Args:
        agreement: the scores.
        curves: their curves.
    """
    if not any(any(values) for curve in curves.values() for values in curve.latents.values()):
        return None
    drawn = {place: [n for n in drawn_names(agreement, place) if (place, n) in curves] for place in agreement.places}
    names = [name for name in agreement.names if any(name in some for some in drawn.values())]
    quantiles = [name for name in names if name.startswith("quantile ")]
    others = [name for name in names if name not in quantiles and name != REFERENCE]
    colours = dict(zip(quantiles, gradation(len(quantiles)), strict=True))
    colours |= {name: colour(n) for n, name in enumerate(others)} | {REFERENCE: "black"}

    def lines(axis: "Axes", place: Place) -> None:
        own, heights = {c.own for c in agreement.at(place)}, list[float]()
        for name in drawn[place]:
            curve = curves[place, name]
            style = "-" if name in quantiles else "--"
            seeds = list(zip(*curve.latents.values(), strict=True))
            for sizes in seeds if len(seeds) > 1 else []:
                axis.plot(COVERAGES, sizes, style, color=colours[name], alpha=0.25, linewidth=0.6)
            means = [curve.size(tau).mean for tau in COVERAGES]
            wide = 2.4 if name in own else 1.2
            axis.plot(COVERAGES, means, style, color=colours[name], linewidth=wide, label=name)
            heights += [*means, *(size for sizes in seeds for size in sizes)]
        if place.setting.core_size is None:
            tau = place.setting.coverage
            axis.axvline(tau, color="#59636E", linestyle=":", linewidth=1, label="coverage τ of the setting")
        axis.set_xlabel("coverage τ")
        axis.set_ylabel("latents")
        log_axis(axis.yaxis, heights)

    def draw() -> "Figure":
        shown = agreement.places[:MOST_PANELS]
        figure, axes = panels(len(shown), width=3.6, height=3.1, columns=2)
        for axis, place in zip(axes, shown, strict=True):
            lines(axis, place)
            most = max((len(curves[place, name].seeds) for name in drawn[place]), default=0)
            write_title(axis, agreement.label(place), f"cycle {place.cycle}, n = {most}")
        legend_below(figure, axes)
        return figure

    rows: list[tuple[Cell, ...]] = []
    for (place, name), curve in curves.items():
        what = (agreement.label(place), place.cycle, name)
        rows += [(*what, "latents at coverage", tau, *estimate_cells(curve.size(tau))) for tau in curve.latents]
        rows += [(*what, "share of the best", n, *estimate_cells(curve.share(n))) for n in curve.shares]
    hidden = len(agreement.names) - len(names)
    rest = f" {hidden} more scores are in the numbers (CSV) only." if hidden else ""
    return Picture(
        NAME,
        "How many latents a score asks for",
        "Latents that hold a share τ of the summed score (log axis), the best first: thick or dashed lines are means, "
        "the thickest of the run's own score, thin lines the seeds. Read across, a curve says which share the best n "
        "hold; the numbers (CSV) have both. A lower curve is a score that lies on fewer latents, which does not say "
        "that they are the right ones. Negative scores, which only exact ablation and integrated gradients have, count "
        f"as 0.{rest}{left_out(len(agreement.places))}",
        ("setting", "cycle", "score", "quantity", "at", *ESTIMATE_HEAD),
        rows,
        draw,
    )
