"""The figures of a sweep, drawn from its summaries and from the curves in its journal."""

import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from dmsae_ray.errors import one_line
from dmsae_ray.plan import CycleSetting, Setting
from dmsae_ray.report.aggregate import Aggregate
from dmsae_ray.report.curves import Band, final_cycle_bands
from dmsae_ray.report.estimates import Estimate, estimate
from dmsae_ray.report.plots import (
    CHANCE,
    MOST_PANELS,
    bars,
    colour,
    counts,
    known_value,
    large_numbers,
    marker,
    panels,
    points,
    save,
)
from dmsae_ray.report.report import Report
from dmsae_ray.tracking import JOURNAL_FILE

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

log = logging.getLogger(__name__)

Draw = Callable[[Report, Path, Path], Path | None]


def write_figures(report: Report, sweep_dir: str | Path) -> list[Path]:
    """Draw every figure that the results allow into `<sweep>/figures`; return the files written.

    A figure that cannot be drawn is left out, and a warning says so.
    """
    sweep_dir = Path(sweep_dir).absolute()
    drawers: list[Draw] = [selected_sets, survival, carryover, coverage, core_l0, transfer, cost]
    made = []
    for draw in drawers:
        try:
            made.append(draw(report, sweep_dir, sweep_dir / "figures"))
        except Exception as error:  # whatever a plotting library raises: the tables and the other figures stand
            log.warning("figure %s cannot be drawn: %s", draw.__name__, one_line(error))
    return [path for path in made if path is not None]


def selected_sets(report: Report, sweep_dir: Path, folder: Path) -> Path | None:
    """Draw Fig. 2: the selected set of every cycle, with carried latents below and new ones above."""
    shown = _shown(report.cycles)
    if not shown:
        return None
    figure, axes = panels(len(shown))
    for axis, one in zip(axes, shown, strict=True):
        replicas = [r for r in report.results if r.setting == one.setting]
        cycles = range(len(one.core_sizes))
        by_cycle = [[c for r in replicas for c in r.reports if c.cycle == cycle] for cycle in cycles]
        carried = [estimate(c.carried or 0 for c in reports) for reports in by_cycle]
        total = [estimate(c.n_core for c in reports) for reports in by_cycle]
        new = [t.mean - c.mean for t, c in zip(total, carried, strict=True)]
        axis.bar(cycles, [c.mean for c in carried], color=colour(0), label="carried from the cycle before")
        axis.bar(cycles, new, bottom=[c.mean for c in carried], color=colour(5), label="new in this cycle")
        axis.errorbar(cycles, [t.mean for t in total], yerr=bars(total), fmt="none", ecolor="black", capsize=3)
        axis.set_title(_title(one))
        axis.set_xticks(list(cycles))
        axis.set_xlabel("cycle")
        axis.set_ylabel("latents in the core")
        counts(axis.yaxis)
    _legend_below(figure, axes[0])
    return save(figure, folder / "selected_sets.png")


def survival(report: Report, sweep_dir: Path, folder: Path) -> Path | None:
    """Draw Fig. 2: the share of the latents born in a cycle that is still in the core in later cycles."""
    shown = _shown(report.cycles)
    if not shown:
        return None
    figure, axes = panels(len(shown))
    for axis, one in zip(axes, shown, strict=True):
        replicas = [r for r in report.results if r.setting == one.setting]
        births = sorted({birth for r in replicas for birth in r.survival})[:-1]
        for n, birth in enumerate(births):
            alive = [r.survival[birth] for r in replicas if birth in r.survival]
            ages = range(max(len(a) for a in alive))
            shares = [estimate(a[age] / a[0] for a in alive if age < len(a)) for age in ages]
            cycles = [known_value(birth + age + 0.06 * (n - (len(births) - 1) / 2)) for age in ages]
            points(axis, cycles, shares, color=colour(n), marker=marker(n), label=f"born in cycle {birth}")
        axis.set_ylim(0, 1.05)
        axis.set_xticks(range(len(one.core_sizes)))
        axis.set_title(_title(one))
        axis.set_xlabel("cycle")
        axis.set_ylabel("share still in the core")
    _legend_below(figure, axes[0])
    return save(figure, folder / "survival.png")


def carryover(report: Report, sweep_dir: Path, folder: Path) -> Path | None:
    """Draw Fig. 6: carryover against the measured total L0, with controls and chance; one panel per coverage."""
    if not any(one.carryover.n for one in report.cycles):
        return None
    coverages = sorted({one.setting.coverage for one in report.cycles})[:MOST_PANELS]
    controls = sorted({name for one in report.cycles for name in one.controls})
    figure, axes = panels(len(coverages), width=3.8, height=3.0)
    for axis, value in zip(axes, coverages, strict=True):
        line = sorted((a for a in report.cycles if a.setting.coverage == value), key=lambda a: a.metrics["l0"].mean)
        x = [one.metrics["l0"] for one in line]
        points(axis, x, [a.carryover for a in line], color=colour(0), marker="o", label="distilled core")
        for n, name in enumerate(controls, start=1):
            at = [a.control_metrics.get(name, {}).get("l0", Estimate(0.0, None, 0)) for a in line]
            y = [a.controls.get(name, Estimate(0.0, None, 0)) for a in line]
            label = f"{name.replace('_', ' ')} control"
            points(axis, at, y, color=colour(n), marker=marker(n), markerfacecolor="white", label=label)
        at = [known_value(l0.mean) for l0 in x]
        points(axis, at, [a.chance for a in line], color=CHANCE, linestyle="--", marker="", label="chance |C| / |pool|")
        axis.set_ylim(0, 1.05)
        axis.set_title(f"τ = {value:g}, n = {_seeds(line)}")
        axis.set_xlabel("measured L0, core included (latents a token)")
        axis.set_ylabel("carryover in the last cycle")
    _legend_below(figure, axes[0])
    return save(figure, folder / "carryover.png")


def coverage(report: Report, sweep_dir: Path, folder: Path) -> Path | None:
    """Draw Fig. 5: reconstruction against coverage; return None if all trials have the same coverage."""
    if len({one.setting.coverage for one in report.cycles}) < 2:
        return None
    figure, axes = panels(2, width=3.8, height=3.0)
    names = (("fvu", "fraction of variance unexplained"), ("explained_variance", "explained variance"))
    for axis, (name, label) in zip(axes, names, strict=True):
        for n, k in enumerate(sorted({one.setting.k for one in report.cycles})):
            line = [one for one in report.cycles if one.setting.k == k]
            x = [known_value(one.setting.coverage) for one in line]
            y = [one.metrics[name] for one in line]
            points(axis, x, y, color=colour(n), marker=marker(n), label=f"k = {k}, n = {_seeds(line)}")
        axis.set_xticks(sorted({one.setting.coverage for one in report.cycles}))
        axis.set_xlabel("attribution coverage τ")
        axis.set_ylabel(f"{label}, last cycle")
    _legend_below(figure, axes[0])
    return save(figure, folder / "coverage.png")


def core_l0(report: Report, sweep_dir: Path, folder: Path) -> Path | None:
    """Draw Fig. 3: how much the core is used while the last cycle trains, distilled core against control cores."""
    bands = final_cycle_bands(report.results, sweep_dir / JOURNAL_FILE, "l0_core")
    shown = dict(list(bands.items())[:MOST_PANELS])
    if not shown:
        return None
    figure, axes = panels(len(shown))
    arms = list(dict.fromkeys(arm for found in shown.values() for arm in found))
    for axis, (title, found) in zip(axes, shown.items(), strict=True):
        for arm, band in found.items():
            n = arms.index(arm)
            label = "distilled core" if arm == "distilled" else f"{arm.replace('_', ' ')} core"
            _band(axis, band, colour(n), ("-", "--", ":", "-.")[n % 4], label)
        axis.set_ylim(bottom=0)
        axis.set_title(f"{title}, n = {max(v.n for band in found.values() for v in band.values)}")
        large_numbers(axis.xaxis)
        axis.set_xlabel("training tokens of the cycle")
        axis.set_ylabel("core L0 (latents a token)")
    fullest = max(zip(axes, shown.values(), strict=True), key=lambda pair: len(pair[1]))[0]
    _legend_below(figure, fullest)
    return save(figure, folder / "core_l0.png")


def transfer(report: Report, sweep_dir: Path, folder: Path) -> Path | None:
    """Draw Figs. 4 and 7: SAEs around a fixed core against the baseline, at measured total L0."""
    if not report.transfers:
        return None
    figure, axes = panels(2, width=3.8, height=3.0)
    names = (("fvu", "fraction of variance unexplained"), ("loss_recovered", "loss recovered"))
    series = sorted({(a.setting.arm, a.setting.core_sparsity) for a in report.transfers})
    for axis, (name, label) in zip(axes, names, strict=True):
        for n, (arm, sparsity) in enumerate(series):
            line = [a for a in report.transfers if (a.setting.arm, a.setting.core_sparsity) == (arm, sparsity)]
            line.sort(key=lambda a: a.metrics["l0"].mean)
            text = "no core (baseline)" if arm == "baseline" else f"{arm} core, {sparsity}"
            style = "--" if sparsity == "sparse" else "-"
            x, y = [a.metrics["l0"] for a in line], [a.metrics[name] for a in line]
            points(axis, x, y, color=colour(n), marker=marker(n), linestyle=style, label=text)
        axis.set_xlabel("measured L0, core included (latents a token)")
        axis.set_ylabel(label)
    _legend_below(figure, axes[0])
    return save(figure, folder / "transfer.png")


def cost(report: Report, sweep_dir: Path, folder: Path) -> Path | None:
    """Draw the cost of one cycle, by setting."""
    every: list[Aggregate[Setting]] = [*report.cycles, *report.transfers]
    known = [a for a in every if a.seconds.n]
    if not known:
        return None
    figure, axes = panels(2, width=3.6, height=max(1.6, 0.28 * len(known) + 0.6))
    quantities = (("seconds a cycle", [a.seconds for a in known]), ("FLOP a cycle", [a.flops for a in known]))
    for axis, (label, values) in zip(axes, quantities, strict=True):
        rows = range(len(known))
        axis.barh(rows, [v.mean for v in values], xerr=bars(values), color=colour(0), error_kw={"capsize": 2})
        axis.set_yticks(rows, [a.setting.label if axis is axes[0] else "" for a in known])
        axis.invert_yaxis()
        large_numbers(axis.xaxis)
        axis.set_xlabel(label)
        axis.set_xlim(left=0)
    return save(figure, folder / "cost.png")


def _band(axis: "Axes", band: Band, paint: str, style: str, label: str) -> None:
    means = [v.mean for v in band.values]
    axis.plot(band.tokens, means, color=paint, linestyle=style, label=label)
    if any(v.half_width is not None for v in band.values):
        low = [v.mean - (v.half_width or 0.0) for v in band.values]
        high = [v.mean + (v.half_width or 0.0) for v in band.values]
        axis.fill_between(band.tokens, low, high, color=paint, alpha=0.15, linewidth=0)


def _legend_below(figure: "Figure", axis: "Axes") -> None:
    handles, labels = axis.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=min(4, max(1, len(labels))), frameon=False)


def _shown(aggregates: Sequence[Aggregate[CycleSetting]]) -> list[Aggregate[CycleSetting]]:
    return [a for a in aggregates if a.core_sizes][:MOST_PANELS]


def _seeds(aggregates: Sequence[Aggregate[CycleSetting]]) -> str:
    counts = sorted({len(a.seeds) for a in aggregates})
    return str(counts[0]) if len(counts) == 1 else f"{counts[0]}-{counts[-1]}"


def _title(one: Aggregate[CycleSetting]) -> str:
    return f"{one.setting.label}, n = {len(one.seeds)}"
