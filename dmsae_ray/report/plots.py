"""The style of figures: colours for colour-blind readers too, a grid of panels, error bars from estimates."""

import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dmsae_ray.report.estimates import Estimate

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure

PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
"""The colours of Okabe and Ito, which colour-blind readers can distinguish too; markers differ as well."""

MARKERS = ("o", "s", "^", "D", "v", "P", "X")
CHANCE = "#7F7F7F"

_STYLE: Any = {
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#E5E5E5",
    "axes.axisbelow": True,
    "legend.frameon": False,
    "figure.dpi": 150,
    "savefig.bbox": "tight",
}

MOST_PANELS = 12


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


def _import_matplotlib() -> None:
    """Import matplotlib without the backend that the environment names: a notebook's may not be installed here."""
    named = os.environ.pop("MPLBACKEND", None)
    try:
        import matplotlib  # noqa: F401
    finally:
        if named is not None:
            os.environ["MPLBACKEND"] = named


def save(figure: "Figure", path: Path) -> Path:
    """Write a figure as PNG; return its path."""
    from matplotlib import rc_context

    path.parent.mkdir(parents=True, exist_ok=True)
    with rc_context(_STYLE):
        figure.savefig(path, format="png")
    return path


def colour(index: int) -> str:
    """Return the colour of the index-th series."""
    return PALETTE[index % len(PALETTE)]


def marker(index: int) -> str:
    """Return the marker of the index-th series."""
    return MARKERS[index % len(MARKERS)]


def points(axes: "Axes", x: Sequence[Estimate], y: Sequence[Estimate], **style: Any) -> None:
    """Draw means, with error bars in both directions where intervals exist; points without a mean are left out."""
    known = [(a, b) for a, b in zip(x, y, strict=True) if a.n and b.n]
    if not known:
        return
    axes.errorbar(
        [a.mean for a, _ in known],
        [b.mean for _, b in known],
        xerr=bars([a for a, _ in known]),
        yerr=bars([b for _, b in known]),
        capsize=2,
        elinewidth=0.9,
        markersize=5,
        **style,
    )


def bars(values: Sequence[Estimate]) -> list[float]:
    """Return the lengths of error bars; NaN, which draws nothing, where there is no interval."""
    return [math.nan if v.half_width is None else v.half_width for v in values]


def counts(axis: "Axis") -> None:
    """Put ticks at whole numbers only."""
    from matplotlib.ticker import MaxNLocator

    axis.set_major_locator(MaxNLocator(nbins=6, integer=True))


def large_numbers(axis: "Axis") -> None:
    """Write ticks as 50k, 2M, 3G."""
    from matplotlib.ticker import EngFormatter

    axis.set_major_formatter(EngFormatter(sep=""))


def known_value(number: float) -> Estimate:
    """Return a number without uncertainty, such as a setting, as an estimate."""
    return Estimate(number, None, 1)
