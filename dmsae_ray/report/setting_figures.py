"""The figures that compare settings: carryover, reconstruction against coverage, the grid, cost."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dmsae_ray.config import axes_label, axes_order
from dmsae_ray.plan import CycleSetting, Setting
from dmsae_ray.report.aggregate import Aggregate
from dmsae_ray.report.estimates import NONE, Estimate
from dmsae_ray.report.finding import UNMATCHED
from dmsae_ray.report.panels import n_text, seeds_text, setting_cells, setting_head, with_numbers
from dmsae_ray.report.picture import ESTIMATE_HEAD, Picture, estimate_cells
from dmsae_ray.report.plots import (
    CHANCE,
    MOST_PANELS,
    RETEST,
    bars,
    colour,
    dots,
    known_value,
    large_numbers,
    legend_below,
    log_axis,
    marker,
    panels,
    points,
)
from dmsae_ray.report.report import Report

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SAME = 0.01
"""Costs that differ by less than this share are equal by construction."""


def carryover(report: Report, sweep_dir: Path) -> Picture | None:
    """Fig. 6: carryover against the measured total L0, with controls and chance; one panel per coverage."""
    shown = [a for a in with_numbers(report.cycles) if a.carryover.n]
    if not shown:
        return None
    groups = sorted({(a.setting.coverage, axes_order(a.setting.axes), a.setting.axes) for a in shown})
    controls = sorted({name for a in shown for name in a.controls})

    def draw() -> "Figure":
        figure, axes = panels(len(groups[:MOST_PANELS]), width=3.9, height=3.1)
        reach = [a.metrics["l0"] for a in shown]
        reach += [a.control_metrics[name]["l0"] for a in shown for name in a.controls]
        l0 = [v for found in reach for v in (*found.values, *(found.interval or ()))]
        for axis, (value, _, point) in zip(axes, groups, strict=False):
            own = [a for a in shown if (a.setting.coverage, a.setting.axes) == (value, point)]
            line = sorted(own, key=lambda a: a.metrics["l0"].mean)
            x, y = [a.metrics["l0"] for a in line], [a.carryover for a in line]
            log_axis(axis.xaxis, l0)
            points(axis, x, y, color=colour(0), marker="o", label="distilled core", zorder=4)
            for at, share, one in zip(x, y, line, strict=True):
                place: Any = {"xytext": (0, 3), "textcoords": "offset points", "fontsize": 7.5, "color": colour(0)}
                top = max((*share.values, *(share.interval or ())))
                axis.annotate(f"k = {one.setting.k}", (at.mean, top), ha="center", va="bottom", **place)
            for n, name in enumerate(controls, start=1):
                at_control = [a.control_metrics.get(name, {}).get("l0", NONE) for a in line]
                style: Any = {"color": colour(n), "marker": marker(n), "markerfacecolor": "white", "linestyle": "-."}
                label = f"{name.replace('_', ' ')} control" + ("" if name == UNMATCHED else ", norm-matched")
                points(axis, at_control, [a.controls.get(name, NONE) for a in line], label=label, **style)
            known = [a for a in line if a.retest.n]
            again = [known_value(a.retest.mean) for a in known]
            label = "test-retest of the score"
            style = {"color": RETEST, "linestyle": ":", "marker": "_", "label": label, "seeds": False}
            points(axis, [known_value(a.metrics["l0"].mean) for a in known], again, **style)
            chance = [known_value(a.chance.mean) for a in line if a.chance.n]
            at_chance = [known_value(a.metrics["l0"].mean) for a in line if a.chance.n]
            label = "chance, |C| / |pool|"
            points(axis, at_chance, chance, color=CHANCE, linestyle="--", marker=".", label=label, seeds=False)
            axis.set_ylim(0, 1.12)
            axis.set_yticks([0, 0.2, 0.4, 0.6, 0.8, 1.0])
            size = line[0].setting.core_size
            of_axes = f"\n{axes_label(point)}" if point else ""
            axis.set_title((f"τ = {value:g}" if size is None else f"the best {size}") + of_axes)
            axis.set_xlabel("measured L0, core included (latents a token)")
            axis.set_ylabel("carryover in the last cycle")
        legend_below(figure, axes)
        return figure

    series: list[tuple[str, list[tuple[Aggregate[CycleSetting], Estimate, Estimate]]]] = [
        ("distilled", [(a, a.metrics["l0"], a.carryover) for a in shown]),
        ("test-retest", [(a, a.metrics["l0"], a.retest) for a in shown if a.retest.n]),
        ("chance", [(a, a.metrics["l0"], a.chance) for a in shown]),
    ]
    series += [
        (name, [(a, a.control_metrics[name]["l0"], a.controls[name]) for a in shown if name in a.controls])
        for name in controls
    ]
    margins = [m for a in shown for m in a.margins.values() if m.interval is not None]
    above = sum(m.interval is not None and m.interval[0] > 0 for m in margins)
    sure = (
        f" In {above} of {len(margins)} comparisons with a control the paired difference is above 0 beyond its 95% "
        "interval."
        if margins
        else " With so few seeds no difference to a control is shown."
        if controls
        else ""
    )
    kind = "coverages" if not shown[0].setting.axes else "panels"
    most = f" The first {MOST_PANELS} of {len(groups)} {kind} are drawn." if len(groups) > MOST_PANELS else ""
    return Picture(
        "carryover",
        "Figure 6: carryover against measured L0",
        "Share of the core that was selected again in the last cycle, against the L0 that its SAE has (log axis); "
        f"labels give k. {seeds_text(shown)} Only what lies above the controls speaks for the choice of latents: what "
        "lies between chance and a control, any frozen rows of these norms achieve. Test-retest is what two halves of "
        f"the attribution tokens select alike from one SAE: the noise of the score alone.{sure}{most}",
        (
            *setting_head(shown),
            "core",
            *(f"L0 {name}" for name in ESTIMATE_HEAD),
            *(f"carryover {name}" for name in ESTIMATE_HEAD),
        ),
        [
            (*setting_cells(a.setting), name, *estimate_cells(x), *estimate_cells(y))
            for name, line in series
            for a, x, y in line
        ],
        draw,
    )


def coverage(report: Report, sweep_dir: Path) -> Picture | None:
    """Fig. 5: reconstruction and L0 against coverage; None if all trials have the same coverage."""
    shown = with_numbers(report.cycles)
    taus, lines = sorted({a.setting.coverage for a in shown}), _lines(shown)
    if len(taus) < 2:
        return None
    names = (
        ("loss_recovered", "loss recovered, last cycle"),
        ("fvu", "fraction of variance unexplained"),
        ("l0", "measured L0 (latents a token)"),
    )

    def draw() -> "Figure":
        figure, axes = panels(3, width=3.4, height=3.0)
        for axis, (name, quantity) in zip(axes, names, strict=True):
            for n, (k, line) in enumerate(lines.items()):
                x = [known_value(a.setting.coverage) for a in line]
                y = [a.metrics[name] for a in line]
                points(axis, x, y, color=colour(n), marker=marker(n), label=k)
                first = [a.initial_metrics[name] for a in line if a.initial_metrics[name].n]
                if first:
                    level = first[0].mean
                    label = f"{k}, cycle 0 (no core)"
                    axis.axhline(level, color=colour(n), linestyle=":", linewidth=1.1, label=label)
            axis.set_xticks(taus)
            axis.set_xlabel("attribution coverage τ")
            axis.set_ylabel(quantity)
            axis.margins(x=0.1)
        legend_below(figure, axes, columns=min(6, len(lines)), by_name=True)
        return figure

    return Picture(
        "coverage",
        "Figure 5: reconstruction against attribution coverage",
        "Share of the language model's loss that the SAE of the last cycle keeps (against zeroing the layer), "
        "variance left unexplained, and measured L0, each against coverage; dotted: cycle 0, which has no core. "
        f"{seeds_text(shown)} A dense core adds to L0: an SAE that reconstructs better at a higher coverage may owe "
        "it to the latents that fire beside its k, so read the first two panels with the third.",
        (*setting_head(shown), "metric", "cycle", *ESTIMATE_HEAD),
        [
            (*setting_cells(a.setting), name, cycle, *estimate_cells(value))
            for a in shown
            for name, _ in names
            for cycle, value in (("0", a.initial_metrics[name]), ("last", a.metrics[name]))
        ],
        draw,
    )


def heat_maps(report: Report, sweep_dir: Path) -> Picture | None:
    """Draw carryover, its margin over the best control and core size over the grid of k and coverage."""
    shown = with_numbers(report.cycles)
    taus, lines = sorted({a.setting.coverage for a in shown}), _lines(shown)
    if len(taus) < 2 or len(lines) < 2:
        return None
    controls = sorted({name for a in shown for name in a.margins})
    maps = [("carryover in the last cycle", {a.setting: a.carryover for a in shown}, "Blues")]
    for name in controls[:1]:
        margins = {a.setting: a.margins.get(name, NONE) for a in shown}
        maps.append((f"carryover minus that of the\n{name.replace('_', ' ')} control", margins, "PuOr"))
    maps.append(("latents in the last core", {a.setting: (a.core_sizes or (NONE,))[-1] for a in shown}, "Greens"))

    def draw() -> "Figure":
        figure, axes = panels(
            len(maps), width=max(3.0, 1.0 + 0.85 * len(taus)), height=max(2.4, 1.0 + 0.5 * len(lines))
        )
        for axis, (title, values, scale) in zip(axes, maps, strict=True):
            grid = [[_at(values, line, tau).mean for tau in taus] for line in lines.values()]
            known = [v for row in grid for v in row if v == v]
            low, high = (0.0, 1.0) if scale == "Blues" else (0.0, max(known, default=1.0))
            if scale == "PuOr":
                high = max((abs(v) for v in known), default=0.0) or 1.0
                low = -high
            image = axis.imshow(grid, cmap=scale, vmin=low, vmax=high, origin="lower", aspect="auto")
            figure.colorbar(image, ax=axis, shrink=0.85)
            for row, line in enumerate(lines.values()):
                for column, tau in enumerate(taus):
                    value = _at(values, line, tau)
                    share = (value.mean - low) / ((high - low) or 1.0)
                    dark = share > 0.6 if scale != "PuOr" else abs(share - 0.5) > 0.33
                    style: Any = {"ha": "center", "va": "center", "color": "white" if dark else "black"}
                    axis.text(column, row, _cell_text(value, scale), fontsize=7.5, linespacing=1.3, **style)
            axis.grid(visible=False)
            axis.set_xticks(range(len(taus)), [f"{tau:g}" for tau in taus])
            axis.set_yticks(range(len(lines)), list(lines))
            axis.set_xlabel("attribution coverage τ")
            axis.set_title(title)
        return figure

    least, most = (pick((a.carryover.mean, a.setting.label) for a in shown if a.carryover.n) for pick in (min, max))
    return (
        Picture(
            "heat_maps",
            "Carryover and core size over the grid",
            "Means over the seeds, with the 95% interval below where there is one; white cells were not run. "
            f"{n_text(shown)}. Carryover goes from {least[0]:.0%} ({least[1]}) to {most[0]:.0%} ({most[1]}). Larger "
            "cores carry over more by chance alone: read the maps of carryover beside that of size.",
            (*setting_head(shown), "quantity", *ESTIMATE_HEAD),
            [
                (*setting_cells(a.setting), title, *estimate_cells(values[a.setting]))
                for title, values, _ in maps
                for a in shown
            ],
            draw,
        )
        if any(a.carryover.n for a in shown)
        else None
    )


def cost(report: Report, sweep_dir: Path) -> Picture | None:
    """Draw the time of one cycle by setting, and its FLOP where they are not equal by construction."""
    every: list[Aggregate[Setting]] = [*report.cycles, *report.transfers]
    known = [a for a in every if a.seconds.n]
    if not known:
        return None
    flops = [a.flops.mean for a in known]
    equal = max(flops) <= (1 + SAME) * min(flops)
    quantities = [("seconds a cycle", [a.seconds for a in known])]
    quantities += [] if equal else [("FLOP a cycle", [a.flops for a in known])]

    def draw() -> "Figure":
        figure, axes = panels(len(quantities), width=4.6, height=max(1.5, 0.26 * len(known) + 0.6))
        rows = [float(n) for n in range(len(known))]
        for axis, (label, values) in zip(axes, quantities, strict=True):
            style: Any = {"fmt": "o", "color": colour(0), "capsize": 2, "markersize": 5, "elinewidth": 0.9}
            axis.errorbar([v.mean for v in values], rows, xerr=bars(values), **style)
            dots(axis, [(value, known_value(row)) for row, value in zip(rows, values, strict=True)], colour(0))
            axis.set_yticks(rows, [a.setting.label if axis is axes[0] else "" for a in known])
            axis.set_ylim(len(known) - 0.5, -0.5)
            large_numbers(axis.xaxis)
            axis.set_xlabel(label)
            axis.set_xlim(0, 1.08 * max(max((*v.values, *(v.interval or ()))) for v in values))
        return figure

    same = f" Every cycle costs {_scientific(flops[0])} FLOP by construction." if equal else ""
    return Picture(
        "cost",
        "Cost of one cycle",
        "Time of training and scoring one cycle, mean over the cycles and controls of a trial. "
        f"{seeds_text(known)}{same} "
        "Times depend on what else the machine did: they say what this sweep took, not which setting is faster.",
        ("setting", "quantity", *ESTIMATE_HEAD),
        [
            (a.setting.label, label, *estimate_cells(value))
            for label, values in (
                ("seconds a cycle", [a.seconds for a in known]),
                ("FLOP a cycle", [a.flops for a in known]),
            )
            for a, value in zip(known, values, strict=True)
        ],
        draw,
    )


def _lines(shown: Sequence[Aggregate[CycleSetting]]) -> dict[str, list[Aggregate[CycleSetting]]]:
    """Group settings that differ only in coverage, by 'k = 20' with the values of further axes."""
    found: dict[str, list[Aggregate[CycleSetting]]] = {}
    for a in sorted(shown, key=lambda a: (a.setting.k, axes_order(a.setting.axes), a.setting.coverage)):
        found.setdefault(f"k = {a.setting.k} {axes_label(a.setting.axes)}".rstrip(), []).append(a)
    return found


def _at(values: dict[CycleSetting, Estimate], line: list[Aggregate[CycleSetting]], coverage: float) -> Estimate:
    return next((values[a.setting] for a in line if a.setting.coverage == coverage), NONE)


def _cell_text(value: Estimate, scale: str) -> str:
    if not value.n:
        return ""
    form = {"Blues": "{:.2f}", "PuOr": "{:+.2f}", "Greens": "{:.3g}"}[scale]
    interval = value.interval
    return form.format(value.mean) + ("" if interval is None else "\n" + " to ".join(form.format(v) for v in interval))


def _scientific(value: float) -> str:
    digits, _, power = f"{value:.1e}".partition("e")
    return f"{digits}e{int(power)}"
