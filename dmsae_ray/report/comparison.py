"""Several sweeps in one page: what each found, the settings in which they differ, and their numbers side by side."""

from collections.abc import Sequence
from functools import partial
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dmsae_ray.plan import Setting
from dmsae_ray.report.aggregate import Aggregate
from dmsae_ray.report.estimates import NONE, Estimate
from dmsae_ray.report.page import Section
from dmsae_ray.report.panels import seeds_text
from dmsae_ray.report.picture import ESTIMATE_HEAD, Picture, estimate_cells
from dmsae_ray.report.plots import bars, colour, dots, few_ticks, known_value, legend_below, marker, panels
from dmsae_ray.report.report import Report
from dmsae_ray.report.tables import Table, differences_table, remark

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Labelled = Sequence[tuple[str, Report]]
"""Reports with names that tell them apart."""

QUANTITIES = ("carryover", "core size", "L0", "FVU", "loss recovered")


def labels(folders: Sequence[Path]) -> list[str]:
    """Return names of sweeps that tell them apart: those of their folders, with as much of the path as it takes."""
    paths = [folder.absolute() for folder in folders]
    for depth in range(1, max(len(path.parts) for path in paths) + 1):
        names = ["/".join(path.parts[-depth:]) for path in paths]
        if len(set(names)) == len(set(paths)):
            return names
    return [str(path) for path in paths]


def comparison_lead(reports: Labelled) -> str:
    """Return what each sweep found."""
    found = "".join(
        f'<p class="finding"><b>{escape(name)}</b>: {escape(report.finding())} '
        f'<span class="soft">{escape(report.progress)}.</span></p>'
        for name, report in reports
    )
    note = "Sweeps are compared setting by setting, not paired: their seeds may stand for different weights and data."
    return f'{found}\n<p class="soft">{note}</p>'


def comparison_section(reports: Labelled, figures: str) -> Section:
    """Return the settings that differ and the numbers side by side; `figures` is the HTML of the figures."""
    differing = differences_table([(name, report.settings) for name, report in reports])
    same = '<p class="soft">All settings that the trials of a sweep share are equal, as far as they are known.</p>'
    body = [same if differing is None else differing.html(), comparison_table(reports).html(), figures]
    return Section("compared", "Compared", "\n".join(body))


def comparison_table(reports: Labelled) -> Table:
    """Tabulate the numbers of the last cycle: a row for each setting and sweep."""
    rows = []
    for label, name, one in _rows(reports):
        values = dict(zip(QUANTITIES, _values(one), strict=True))
        digits = (("carryover", 2), ("core size", 1), ("L0", 1), ("FVU", 3), ("loss recovered", 3))
        said = remark(one, None)
        n = f"{len(one.seeds)} ({said})" if said else str(len(one.seeds))
        rows.append((label, name, n, *(values[quantity].text(d) for quantity, d in digits)))
    return Table("Settings side by side, in their last cycle", ("setting", "sweep", "n", *QUANTITIES), tuple(rows))


def comparison_picture(reports: Labelled) -> Picture:
    """Draw every quantity by setting, with a colour for each sweep."""
    every = [one for _, _, one in _rows(reports)]
    return Picture(
        "compared",
        "The sweeps side by side",
        f"Each setting in its last cycle, a colour for each sweep. {seeds_text(every)} Intervals that do not overlap "
        "differ; those that overlap may differ all the same.",
        ("setting", "sweep", "quantity", *ESTIMATE_HEAD),
        [
            (label, name, quantity, *estimate_cells(value))
            for label, name, one in _rows(reports)
            for quantity, value in zip(QUANTITIES, _values(one), strict=True)
        ],
        partial(_draw, reports),
    )


def _draw(reports: Labelled) -> "Figure":
    rows = _rows(reports)
    settings = list(dict.fromkeys(label for label, _, _ in rows))
    names = [name for name, _ in reports]
    height = 0.9 + (0.16 * len(names) + 0.14) * len(settings)
    figure, axes = panels(len(QUANTITIES), width=2.5, height=max(1.6, height), columns=5)
    for n, (axis, quantity) in enumerate(zip(axes, QUANTITIES, strict=True)):
        for index, name in enumerate(names):
            own = [(settings.index(label), _values(one)[n]) for label, other, one in rows if other == name]
            own = [(row, value) for row, value in own if value.n]
            at = [row + 0.7 * ((index + 0.5) / len(names) - 0.5) for row, _ in own]
            values = [value for _, value in own]
            style: Any = {
                "fmt": marker(index),
                "color": colour(index),
                "capsize": 2,
                "markersize": 4.5,
                "elinewidth": 0.9,
            }
            axis.errorbar([v.mean for v in values], at, xerr=bars(values), label=name, **style)
            dots(axis, [(value, known_value(y)) for y, value in zip(at, values, strict=True)], colour(index))
        axis.set_yticks(range(len(settings)), settings if n == 0 else [""] * len(settings))
        axis.set_ylim(len(settings) - 0.5, -0.5)
        axis.set_xlabel(quantity if quantity != "L0" else "L0 (latents a token)")
        few_ticks(axis.xaxis)
        if quantity == "carryover":
            axis.set_xlim(0, 1.03)
    legend_below(figure, axes, columns=2)
    return figure


def _rows(reports: Labelled) -> list[tuple[str, str, Aggregate[Setting]]]:
    """Return (setting, sweep, numbers), the sweeps of one setting next to each other."""
    found: list[tuple[str, Aggregate[Setting]]] = []
    for name, report in reports:
        every: list[Aggregate[Setting]] = [*report.cycles, *report.transfers]
        found += [(name, one) for one in every if one.seeds or one.collapsed]
    order = sorted({one.setting for _, one in found}, key=lambda setting: setting.order)
    return [(setting.label, name, one) for setting in order for name, one in found if one.setting == setting]


def _values(one: Aggregate[Setting]) -> tuple[Estimate, ...]:
    size = one.core_sizes[-1] if one.core_sizes else NONE
    return (one.carryover, size, *(one.metrics[name] for name in ("l0", "fvu", "loss_recovered")))
