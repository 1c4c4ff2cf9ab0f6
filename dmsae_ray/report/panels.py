"""What the figures of settings have in common: the same panels in the same order, and what captions say of n."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from dmsae_ray.config import short_names, value_text
from dmsae_ray.plan import CycleSetting, Setting
from dmsae_ray.report.aggregate import Aggregate
from dmsae_ray.report.estimates import FEWEST
from dmsae_ray.report.picture import Cell
from dmsae_ray.report.plots import MOST_PANELS, legend_below, no_data, panels, write_title

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


MANY_CYCLES = 5
"""With more cycles panels are wider."""


def setting_head(shown: Sequence[Aggregate[CycleSetting]]) -> tuple[str, ...]:
    """Return the columns of a CSV file that say the setting: k, coverage and the further axes of the grid."""
    return ("k", "coverage", *short_names(shown[0].setting.axes).values())


def setting_cells(setting: CycleSetting) -> tuple[Cell, ...]:
    """Return the cells below `setting_head`."""
    return (setting.k, setting.coverage, *(value_text(value) for _, value in setting.axes))


def with_numbers(aggregates: Sequence[Aggregate[CycleSetting]]) -> list[Aggregate[CycleSetting]]:
    """Return the settings that have a seed behind their numbers; each has a panel in each figure by setting."""
    return [a for a in aggregates if a.seeds]


def setting_panels(
    shown: Sequence[Aggregate[CycleSetting]],
    draw: "Callable[[Axes, Aggregate[CycleSetting]], bool]",
    *,
    height: float = 2.6,
) -> "Figure":
    """Draw a panel for each setting, the first `MOST_PANELS` of them.

    Args:
        shown: The settings.
        draw: Draws one of them; returns False if it has no data, which the panel then says.
        height: Height of a panel in inches.
    """
    first = shown[:MOST_PANELS]
    wide = max(len(one.core_sizes) for one in first) > MANY_CYCLES
    figure, axes = panels(len(first), height=height, width=4.8 if wide else 3.4, columns=2 if wide else 3)
    for axis, one in zip(axes, first, strict=True):
        if not draw(axis, one):
            no_data(axis)
        write_title(axis, one.setting.label, n_of_panel(one))
    legend_below(figure, axes)
    return figure


def n_of_panel(one: Aggregate[CycleSetting]) -> str:
    """Return what stands behind the setting in the title of its panel: its n, and what is not in it."""
    parts = [f"{len(one.collapsed)} collapsed"] if one.collapsed else []
    parts += [] if one.finished else ["stopped" if one.running and one.running == one.stopped else "unfinished"]
    rest = f" ({', '.join(parts)})" if parts else ""
    return f"n = {len(one.seeds)}{rest}"


def left_out(count: int) -> str:
    """Return what a caption says of settings without a panel; empty if there are none."""
    if count <= MOST_PANELS:
        return ""
    return f" The first {MOST_PANELS} of {count} settings have a panel; the numbers (CSV) hold all."


def n_text(aggregates: Sequence[Aggregate[Setting]] | Sequence[Aggregate[CycleSetting]]) -> str:
    """Return how many seeds are behind the points of a figure, as 'n = 2 to 3 (1 collapsed, in no number)'."""
    return f"{_n([len(a.seeds) for a in aggregates])}{collapsed_text(aggregates)}"


def collapsed_text(aggregates: Sequence[Aggregate[Setting]] | Sequence[Aggregate[CycleSetting]]) -> str:
    """Return what a caption says behind n of the seeds that collapsed; empty if none did."""
    collapsed = sum(len(a.collapsed) for a in aggregates)
    return f" ({collapsed} collapsed, in no number)" if collapsed else ""


def _n(counts: Sequence[int]) -> str:
    low, high = min(counts), max(counts)
    return f"n = {low}" if low == high else f"n = {low} to {high}"


def seeds_text(aggregates: Sequence[Aggregate[Setting]] | Sequence[Aggregate[CycleSetting]]) -> str:
    """Return how many seeds are behind the points of a figure, and how their spread is shown."""
    counts = sorted({len(a.seeds) for a in aggregates})
    if not counts:
        return ""
    n, rest = _n(counts), collapsed_text(aggregates)
    noun = "seed" if counts == [1] else "seeds"
    if counts[-1] >= FEWEST:
        some = "" if counts[0] >= FEWEST else f" where there are at least {FEWEST} of them"
        return f"{n} {noun}{rest}; bars are 95% intervals over the seeds{some}, small dots the seeds."
    shown = ", small dots the seeds" if counts[-1] > 1 else ""
    return f"{n} {noun}{rest}: too few for an interval{shown}."
