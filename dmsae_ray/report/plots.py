"""The style of figures: colours for colour-blind readers too, a grid of panels, error bars from estimates."""

import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dmsae_ray.files import replacing
from dmsae_ray.report.estimates import Estimate

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure

PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
"""The colours of Okabe and Ito, which colour-blind readers can distinguish too; markers differ as well."""

MARKERS = ("o", "s", "^", "D", "v", "P", "X")
CHANCE = "#7F7F7F"
RETEST = "#3F3F3F"

_STYLE: Any = {
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.edgecolor": "#59636E",
    "axes.titlesize": 9.5,
    "grid.color": "#E5E5E5",
    "axes.axisbelow": True,
    "legend.frameon": False,
    "figure.dpi": 150,
    "svg.hashsalt": "dmsae_ray",
}

MOST_PANELS = 12


_LETTERS_PER_INCH = 9.5
"""Of a panel's width, in titles."""


def panels(count: int, *, width: float = 3.4, height: float = 2.6, columns: int = 3) -> "tuple[Figure, list[Axes]]":
    """Return a figure with `count` panels in rows, sizes in inches; it needs no display."""
    _import_matplotlib()
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    columns = 2 if count == 4 else max(1, min(columns, count))
    rows = -(-count // columns)
    with rc_context(_STYLE):
        figure = Figure(figsize=(width * columns + 0.6, height * rows + 0.4), layout="constrained")
        axes = list(figure.subplots(rows, columns, squeeze=False).flat)
    engine = figure.get_layout_engine()
    if engine is not None:
        engine.set(w_pad=0.08, h_pad=0.08)  # type: ignore[call-arg]
    for unused in axes[count:]:
        unused.set_axis_off()
    return figure, axes[:count]


def load_plotting() -> None:
    """Import what drawing needs: it takes a second or two, which a sweep has while its trials train."""
    _import_matplotlib()
    import matplotlib.backends.backend_agg
    import matplotlib.backends.backend_svg
    import matplotlib.figure  # noqa: F401


def _import_matplotlib() -> None:
    """Import matplotlib without the backend that the environment names: a notebook's may not be installed here."""
    named = os.environ.pop("MPLBACKEND", None)
    try:
        import matplotlib  # noqa: F401
    finally:
        if named is not None:
            os.environ["MPLBACKEND"] = named


def save(figure: "Figure", path: Path) -> Path:
    """Write a figure in the format that its name ends on, PNG or SVG; return its path.

    Equal figures give equal bytes. The layout is found once, which takes most of the time.
    """
    from matplotlib import rc_context

    path.parent.mkdir(parents=True, exist_ok=True)
    form = path.suffix.removeprefix(".")
    with rc_context(_STYLE), replacing(path) as temporary:
        figure.savefig(temporary, format=form, metadata={"Date": None} if form == "svg" else None)
    figure.set_layout_engine("none")
    return path


def colour(index: int) -> str:
    """Return the colour of the index-th series."""
    return PALETTE[index % len(PALETTE)]


def marker(index: int) -> str:
    """Return the marker of the index-th series."""
    return MARKERS[index % len(MARKERS)]


def points(
    axes: "Axes", x: Sequence[Estimate], y: Sequence[Estimate], *, color: str, seeds: bool = True, **style: Any
) -> None:
    """Draw means, with intervals in both directions where they exist, and each seed as a small dot.

    Points without a mean are left out.
    """
    known = [(a, b) for a, b in zip(x, y, strict=True) if a.n and b.n]
    if not known:
        return
    axes.errorbar(
        [a.mean for a, _ in known],
        [b.mean for _, b in known],
        xerr=bars([a for a, _ in known]),
        yerr=bars([b for _, b in known]),
        **{"color": color, "capsize": 2, "elinewidth": 0.9, "markersize": 5.5, "linewidth": 1.2, **style},
    )
    if seeds:
        dots(axes, known, color)


def dots(axes: "Axes", pairs: Sequence[tuple[Estimate, Estimate]], color: str) -> None:
    """Draw each seed of pairs (x, y) as a small dot; one of both may be a single number for all seeds of the other."""
    x: list[float] = []
    y: list[float] = []
    for across, up in pairs:
        n = max(across.n, up.n)
        if n > 1 and across.n in (1, n) and up.n in (1, n):
            x += across.values if across.n == n else across.values * n
            y += up.values if up.n == n else up.values * n
    axes.scatter(x, y, s=9, color=color, alpha=0.45, linewidths=0, zorder=3)


def by_name(
    axes: "Axes",
    series: "Sequence[tuple[str, Sequence[Estimate]]]",
    names: Sequence[str],
    *,
    dots: bool = True,
    hollow: "Sequence[Sequence[bool]] | None" = None,
) -> None:
    """Draw series of estimates by name, one line a name from top to bottom, means with intervals across.

    Args:
        axes: Where to draw.
        series: (label, one estimate a name); those without a mean are left out.
        names: Names of the lines.
        dots: Draw each seed as a small dot.
        hollow: For each series and name, whether its marker is hollow.
    """
    step = 0.6 / max(2, len(series)) if len(series) > 2 else 0.36
    for n, (label, values) in enumerate(series):
        shift, shown = step * (n - (len(series) - 1) / 2), label
        for y, value in enumerate(values):
            if not value.n:
                continue
            face = "white" if hollow is not None and hollow[n][y] else colour(n)
            axes.errorbar(
                [value.mean],
                [y + shift],
                xerr=bars([value]),
                color=colour(n),
                marker=marker(n),
                markerfacecolor=face,
                markersize=4,
                capsize=2,
                linewidth=0.9,
                linestyle="none",
                label=shown,
            )
            shown = "_nolegend_"
            if dots and value.n > 1:
                axes.scatter(value.values, [y + shift] * value.n, s=7, color=colour(n), alpha=0.4, linewidths=0)
    axes.set_yticks(range(len(names)), names, fontsize=7.5)
    axes.invert_yaxis()


def bars(values: Sequence[Estimate]) -> list[list[float]]:
    """Return the lengths of error bars, below and above the means; NaN, which draws nothing, without an interval."""
    ends = [v.interval or (math.nan, math.nan) for v in values]
    below = [max(0.0, v.mean - low) for v, (low, _) in zip(values, ends, strict=True)]
    above = [max(0.0, high - v.mean) for v, (_, high) in zip(values, ends, strict=True)]
    gone = [math.isnan(low) for low, _ in ends]
    return [[math.nan if g else v for v, g in zip(side, gone, strict=True)] for side in (below, above)]


def gradation(count: int) -> list[str]:
    """Return colours for what has an order, such as cycles: from dark to light, for colour-blind readers too."""
    from matplotlib import colormaps
    from matplotlib.colors import to_hex

    scale = colormaps["viridis"]
    return [to_hex(scale(0.06 + 0.82 * n / max(1, count - 1))) for n in range(count)]


def readable_on(paint: str) -> str:
    """Return black or white, whichever can be read on a colour."""
    from matplotlib.colors import to_rgb

    red, green, blue = to_rgb(paint)
    return "black" if 0.299 * red + 0.587 * green + 0.114 * blue > 0.55 else "white"


def write_title(axes: "Axes", setting: str, rest: str) -> None:
    """Write the title of a panel, 'setting, rest', in two lines where one would be wider than the panel."""
    place, text = axes.get_subplotspec(), f"{setting}, {rest}"
    columns = 1 if place is None else place.get_gridspec().ncols
    figure = axes.get_figure(root=True)
    wide = figure is not None and len(text) > _LETTERS_PER_INCH * figure.get_figwidth() / columns
    axes.set_title(f"{setting}\n{rest}" if wide else text)


def no_data(axes: "Axes", reason: str = "no data") -> None:
    """Say in a panel that there is nothing to draw."""
    axes.text(0.5, 0.5, reason, transform=axes.transAxes, ha="center", va="center", color="#59636E", fontsize=8)


def legend_below(figure: "Figure", axes: "Sequence[Axes]", columns: int = 4, *, by_name: bool = False) -> None:
    """Put one legend for all panels below them, in the order in which things were drawn or of their names.

    It has as many columns as the figure is wide enough for, `columns` at most.
    """
    found: dict[str, Any] = {}
    for axis in axes:
        for handle, label in zip(*axis.get_legend_handles_labels(), strict=True):
            found.setdefault(label, handle)
    if by_name:
        found = {label: found[label] for label in sorted(found)}
    for n in range(min(columns, len(found)), 0, -1):
        legend = figure.legend(list(found.values()), list(found), loc="outside lower center", ncols=n, frameon=False)
        if n == 1 or legend.get_window_extent().width <= figure.bbox.width:
            return
        legend.remove()


TICKS = (1.0,), (1.0, 3.0), (1.0, 2.0, 5.0), (1.0, 1.5, 2.0, 3.0, 4.0, 5.0, 7.0), tuple(n / 4 for n in range(4, 40))
"""Where a logarithmic axis may have ticks within a decade, from few to many."""


def log_axis(axis: "Axis", values: Sequence[float]) -> None:
    """Make an axis logarithmic, from the least to the largest of `values`, with plain numbers at its ticks."""
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

    known = [v for v in values if v > 0]
    if not known:
        return
    axes = axis.axes
    across = axis is axes.xaxis
    set_scale, set_limits = (axes.set_xscale, axes.set_xlim) if across else (axes.set_yscale, axes.set_ylim)
    low, high = min(known), max(known)
    low, high = (low / 1.5, high * 1.5) if high < 1.05 * low else (low, high)
    edge = (high / low) ** 0.09
    low, high = low / edge, high * edge
    set_scale("log")
    set_limits(low, high)
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    every = ([step * 10.0**power for power in powers for step in steps] for steps in TICKS)
    seen = [[tick for tick in ticks if low <= tick <= high] for ticks in every]
    axis.set_major_locator(FixedLocator(next((ticks for ticks in seen if len(ticks) >= 4), seen[-1])))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))


def counts(axis: "Axis") -> None:
    """Put ticks at whole numbers only."""
    from matplotlib.ticker import MaxNLocator

    axis.set_major_locator(MaxNLocator(nbins=6, integer=True))


def few_ticks(axis: "Axis") -> None:
    """Put four or five ticks on the axis of a narrow panel."""
    from matplotlib.ticker import MaxNLocator

    axis.set_major_locator(MaxNLocator(nbins=4))


def large_numbers(axis: "Axis") -> None:
    """Write ticks as 50k, 2M, 3G."""
    from matplotlib.ticker import EngFormatter

    axis.set_major_formatter(EngFormatter(sep=""))


def known_value(number: float) -> Estimate:
    """Return a number without uncertainty, such as a setting, as an estimate."""
    return Estimate(number, None, None, 1, (number,))
