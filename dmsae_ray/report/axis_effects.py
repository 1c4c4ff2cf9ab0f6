"""What a further axis of a grid changes: each quantity against its values, and paired differences to its first one."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dmsae_ray.config import Axes, axes_label, frozen, short_names, value_text
from dmsae_ray.plan import Setting, TransferSetting, axes_of
from dmsae_ray.report.aggregate import Aggregate
from dmsae_ray.report.estimates import Estimate, estimate
from dmsae_ray.report.paired import Difference, holm, paired
from dmsae_ray.report.picture import ESTIMATE_HEAD, Picture, estimate_cells
from dmsae_ray.report.plots import colour, known_value, legend_below, log_axis, marker, panels, points
from dmsae_ray.report.tables import Table, core_text
from dmsae_ray.results import TrialResult

if TYPE_CHECKING:
    from matplotlib.axes import Axes as Panel
    from matplotlib.figure import Figure

    from dmsae_ray.report.report import Report

MOST_TIMES = 20.0
"""Numbers of an axis that span more than this factor stand on a logarithmic scale."""


@dataclass(frozen=True)
class Quantity:
    """A number of a trial that an axis may change.

    Attributes:
        name: what a person calls it.
        of: the number of a finished trial; None where it has none.
        digits: digits behind the point in a table.
    """

    name: str
    of: Callable[[TrialResult], float | None]
    digits: int = 2


def _over_control(result: TrialResult) -> float | None:
    known = [c.carryover for c in result.sound_controls.values() if c.carryover is not None]
    return result.last.carryover - max(known) if known and result.last.carryover is not None else None


def _metric(result: TrialResult, name: str) -> float | None:
    return result.last.metrics.get(name)


_MEASURED = (
    Quantity("L0", partial(_metric, name="l0"), 1),
    Quantity("FVU", partial(_metric, name="fvu"), 3),
    Quantity("loss recovered", partial(_metric, name="loss_recovered"), 3),
)
QUANTITIES = (
    Quantity("carryover", lambda r: r.last.carryover),
    Quantity("carryover over the best control", _over_control),
    Quantity("latents in the last core", lambda r: float(r.last.n_core), 1),
    *_MEASURED,
)
"""Of trials of cycles."""
OF_TRANSFERS = (Quantity("core kept", lambda r: r.last.carryover), *_MEASURED)


@dataclass(frozen=True)
class Line:
    """Settings that differ in one axis alone, by its values.

    Attributes:
        axis: the axis, by its dotted name.
        label: what they have in common.
        core: of transfers, what they are trained around; empty for trials of cycles.
        settings: the settings, by the value.
    """

    axis: str
    label: str
    core: str
    settings: Mapping[Any, "Aggregate[Any]"]


Listed = Mapping[str, Sequence[Any]]
"""The values of each axis, in the order of the config: the first one is what others are compared with."""


def axis_lines(settings: "Sequence[Aggregate[Any]]", listed: Listed) -> list[Line]:
    """Return, for each axis, the settings that differ in it alone; those of one value are left out."""
    found: list[Line] = []
    for axis in axes_of(a.setting for a in settings):
        groups: dict[tuple[str, str], dict[Any, Aggregate[Any]]] = {}
        for a in settings:
            own = dict(a.setting.axes)
            if axis in own:
                groups.setdefault(_rest(a.setting, axis), {})[own[axis]] = a
        order = [frozen(value) for value in listed.get(axis, ())]
        for (label, core), of_group in groups.items():
            values = sorted(of_group, key=lambda value: order.index(value) if value in order else len(order))
            found += [Line(axis, label, core, {v: of_group[v] for v in values})] if len(values) > 1 else []
    return found


def _rest(setting: Setting, axis: str) -> tuple[str, str]:
    """Return what a setting is beside an axis, and of transfers what it is trained around."""
    rest: Axes = tuple((path, value) for path, value in setting.axes if path != axis)
    if isinstance(setting, TransferSetting):
        return replace(setting, axes=rest).label, core_text(setting)
    how = f"τ={setting.coverage:g}" if setting.core_size is None else setting.selects
    how = "" if axis == "distill.core_size" else how
    named = axis == "sae.core_sparsity" or "sae.core_sparsity" in dict(setting.axes)
    sparsity = "" if named else setting.core_sparsity
    return " ".join(filter(None, (f"k={setting.k}", how, sparsity, axes_label(rest)))), ""


def axis_table(
    settings: "Sequence[Aggregate[Any]]", replicas: Mapping[Setting, Sequence[TrialResult]], listed: Listed
) -> Table:
    """Tabulate each value of each axis less the first one, paired over seeds; all differences corrected together.

    A seed's difference is the mean over the settings that differ in the axis alone; of transfers, those around one
    kind of core.

    Args:
        settings: the settings of a sweep with further axes.
        replicas: the trials behind their numbers.
        listed: the values of each axis.
    """
    shown = [a for a in settings if a.seeds]
    lines, quantities = axis_lines(shown, listed), _quantities(shown)
    places: list[tuple[str, str, Any, Any]] = []
    found: list[Difference] = []
    for axis, core in dict.fromkeys((line.axis, line.core) for line in lines):
        own = [line for line in lines if (line.axis, line.core) == (axis, core)]
        first, *others = dict.fromkeys(value for line in own for value in line.settings)
        for value in others:
            both = [line for line in own if first in line.settings and value in line.settings]
            places.append((axis, core, value, first))
            for quantity in quantities:
                here, there = (
                    [_by_seed(line.settings[v], replicas, quantity) for line in both] for v in (value, first)
                )
                found.append(paired(*_means(here, there)))
    corrected = iter(holm(found))
    names = short_names(tuple((axis, None) for axis in dict.fromkeys(axis for axis, *_ in places)))
    cores = any(core for _, core, _, _ in places)
    rows = []
    for axis, core, value, first in places:
        own_row = [next(corrected) for _ in quantities]
        texts = (d.text(q.digits) for q, d in zip(quantities, own_row, strict=True))
        said = f"{value_text(value)} less {value_text(first)}"
        rows.append((names[axis], *((core,) if cores else ()), said, str(max(d.n for d in own_row)), *texts))
    head = ("axis", *(("core",) if cores else ()), "values", "n")
    head += tuple(q.name.replace(" over the ", "\nover the\n") for q in quantities)
    return Table(f"What the axes change{'' if cores else ', in the last cycle'}", head, tuple(rows))


def _quantities(settings: "Sequence[Aggregate[Any]]") -> tuple[Quantity, ...]:
    of_transfers = any(isinstance(a.setting, TransferSetting) for a in settings)
    return OF_TRANSFERS if of_transfers else QUANTITIES


def _by_seed(
    one: "Aggregate[Any]", replicas: Mapping[Setting, Sequence[TrialResult]], quantity: Quantity
) -> dict[int, float]:
    known = ((r.trial.seed, quantity.of(r)) for r in replicas.get(one.setting, ()) if r.collapse is None)
    return {seed: value for seed, value in known if value is not None}


def _means(
    here: Sequence[Mapping[int, float]], there: Sequence[Mapping[int, float]]
) -> tuple[dict[int, float], dict[int, float]]:
    """Return the means by seed over the settings that have the seed on both sides."""
    sums: dict[int, list[tuple[float, float]]] = {}
    for own, other in zip(here, there, strict=True):
        for seed in own.keys() & other.keys():
            sums.setdefault(seed, []).append((own[seed], other[seed]))
    return (
        {seed: sum(a for a, _ in pairs) / len(pairs) for seed, pairs in sums.items()},
        {seed: sum(b for _, b in pairs) / len(pairs) for seed, pairs in sums.items()},
    )


def axis_effects(report: "Report", sweep_dir: Path) -> Picture | None:
    """Draw each quantity against the values of each axis; None where a sweep has no further axes."""
    every: Sequence[Aggregate[Any]] = report.cycles or report.transfers
    shown = [a for a in every if a.seeds]
    lines, quantities = axis_lines(shown, report.axes), _quantities(shown)
    if not lines:
        return None
    axes = list(dict.fromkeys(line.axis for line in lines))
    names = short_names(tuple((axis, None) for axis in axes))
    numbers = [
        (line, value, quantity, estimate(_by_seed(a, report.replicas, quantity).values()))
        for line in lines
        for value, a in line.settings.items()
        for quantity in quantities
    ]

    labels = list(dict.fromkeys(line.label for line in lines))

    def draw() -> "Figure":
        columns = len(quantities) // 2
        figure, made = panels(len(axes) * len(quantities), width=3.2, height=2.4, columns=columns)
        for n, panel in enumerate(made):
            axis, quantity = axes[n // len(quantities)], quantities[n % len(quantities)]
            _draw_panel(panel, [x for x in numbers if x[0].axis == axis and x[2] == quantity], labels)
            panel.set_xlabel(names[axis])
            panel.set_ylabel(quantity.name.replace(" over", "\nover"))
        legend_below(figure, made, columns=2)
        return figure

    what = "Each quantity" if report.transfers else "Each quantity of the last cycle"
    seeds = sorted({len(a.seeds) for line in lines for a in line.settings.values()})
    n = f"{seeds[0]} to {seeds[-1]}" if len(seeds) > 1 else str(seeds[0])
    return Picture(
        "axis_effects",
        "What the axes change",
        f"{what} against the values of each further axis of the grid; a line joins settings "
        f"that differ in this axis alone. n = {n} seeds; small dots are the seeds. Whether a difference is more than "
        "chance is in the table: it is paired, seed by seed, and all its differences are corrected together.",
        ("axis", "others", "value", "quantity", *ESTIMATE_HEAD),
        [(line.axis, line.label, value_text(v), q.name, *estimate_cells(found)) for line, v, q, found in numbers],
        draw,
    )


def _draw_panel(panel: "Panel", numbers: Sequence[tuple[Line, Any, Quantity, Estimate]], labels: Sequence[str]) -> None:
    values = list(dict.fromkeys(value for _, value, _, _ in numbers))
    scaled = all(type(value) in (int, float) for value in values)
    place = {value: float(value) if scaled else float(n) for n, value in enumerate(values)}
    for line in dict.fromkeys(line.label for line, _, _, _ in numbers):
        n = labels.index(line)
        own = sorted(((place[v], found) for one, v, _, found in numbers if one.label == line), key=lambda p: p[0])
        x, y = [known_value(at) for at, _ in own], [found for _, found in own]
        points(panel, x, y, color=colour(n), marker=marker(n), label=line)
    if not scaled:
        panel.set_xticks(range(len(values)), [value_text(value) for value in values])
        panel.set_xlim(-0.4, len(values) - 0.6)
    elif min(values) > 0 and max(values) > MOST_TIMES * min(values):
        log_axis(panel.xaxis, values)
    else:
        panel.set_xticks(values, [value_text(value) for value in values])
        panel.margins(x=0.12)
