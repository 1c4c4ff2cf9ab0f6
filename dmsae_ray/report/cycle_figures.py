"""The figures of what happens from cycle to cycle: selected sets, lineage, survival, coverage of the score."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dmsae_ray.plan import CycleSetting
from dmsae_ray.report.aggregate import Aggregate
from dmsae_ray.report.alluvial import draw_alluvial
from dmsae_ray.report.chains import chain_names, chain_survival
from dmsae_ray.report.estimates import NONE, Estimate, estimate
from dmsae_ray.report.panels import (
    left_out,
    n_text,
    seeds_text,
    setting_cells,
    setting_head,
    setting_panels,
    with_numbers,
)
from dmsae_ray.report.picture import ESTIMATE_HEAD, Cell, Picture, estimate_cells
from dmsae_ray.report.plots import bars, colour, counts, dots, gradation, known_value, log_axis, marker, points
from dmsae_ray.report.report import Report
from dmsae_ray.report.score_curves import coverage_curves, cycle_store
from dmsae_ray.results import TrialResult

if TYPE_CHECKING:
    from matplotlib.axes import Axes


One = Aggregate[CycleSetting]
Cohorts = dict[int, list[Estimate]]


def selected_sets(report: Report, sweep_dir: Path) -> Picture | None:
    """Fig. 2: the selected set of every cycle, with carried latents below and new ones above."""
    shown = with_numbers(report.cycles)
    if not shown:
        return None
    parts = {a.setting: _selected(report.replicas[a.setting], len(a.core_sizes)) for a in shown}

    def draw(axis: "Axes", one: One) -> bool:
        total, carried = parts[one.setting]
        cycles = range(len(total))
        new = [t.mean - c.mean for t, c in zip(total, carried, strict=True)]
        below = [c.mean for c in carried]
        axis.bar(cycles, below, color=colour(0), label="selected again")
        axis.bar(cycles, new, bottom=below, color=colour(5), label="new in this cycle")
        axis.errorbar(cycles, [t.mean for t in total], yerr=bars(total), fmt="none", ecolor="black", capsize=3)
        dots(axis, [(known_value(cycle), value) for cycle, value in zip(cycles, total, strict=True)], "black")
        axis.set_xticks(list(cycles))
        axis.set_xlabel("cycle")
        axis.set_ylabel("latents in the core")
        axis.set_ylim(0, 1.08 * max([0.9, *(v for t in total for v in (*t.values, *(t.interval or ())))]))
        counts(axis.yaxis)
        return bool(total)

    rows: list[tuple[Cell, ...]] = [
        (*setting_cells(a.setting), cycle, quantity, *estimate_cells(value))
        for a in shown
        for quantity, values in zip(("core size", "selected again"), parts[a.setting], strict=True)
        for cycle, value in enumerate(values)
    ]
    again = [carried[-1].mean / max(1e-9, total[-1].mean) for total, carried in parts.values() if len(total) > 1]
    end = f" In the last cycle {_percents(again)} of a core's latents had been selected before." if again else ""
    return Picture(
        "selected_sets",
        "Figure 2: the selected set of each cycle",
        "Latents selected in each cycle: those of the core before it that were selected again, and new ones above "
        f"them. {seeds_text(shown)}{end} A core that settles keeps its height and loses its light "
        f"part.{left_out(len(shown))}",
        (*setting_head(shown), "cycle", "quantity", *ESTIMATE_HEAD),
        rows,
        lambda: setting_panels(shown, draw),
    )


def lineage(report: Report, sweep_dir: Path) -> Picture | None:
    """Fig. 2: the cohorts of latents that were born in a cycle, and how they flow through the later ones."""
    shown = with_numbers(report.cycles)
    sizes = {a.setting: _cohort_sizes(report.replicas[a.setting]) for a in shown}
    if not any(sizes.values()):
        return None
    colours = gradation(max((len(a.core_sizes) for a in shown), default=1))

    def draw(axis: "Axes", one: One) -> bool:
        draw_alluvial(axis, {b: [v.mean for v in line] for b, line in sizes[one.setting].items()}, colours)
        axis.set_xlabel("cycle")
        axis.set_ylabel("latents in the core")
        counts(axis.yaxis)
        return bool(sizes[one.setting])

    return Picture(
        "lineage",
        "Figure 2: lineage of the core's latents",
        "The core of each cycle by the cycle in which a latent's encoder row was learned; the number of latents is "
        "written where there is room. Bands lead to what is selected again, grey ends are latents that are given up, "
        f"which never return. Means over the seeds; {n_text(shown)}. What is left of cycle 0 at the right edge is the "
        f"distilled core, where a latent of it must have been in every core.{left_out(len(shown))}",
        (*setting_head(shown), "born in cycle", "cycle", *ESTIMATE_HEAD),
        [
            (*setting_cells(a.setting), birth, birth + age, *estimate_cells(value))
            for a in shown
            for birth, line in sizes[a.setting].items()
            for age, value in enumerate(line)
        ],
        lambda: setting_panels(shown, draw, height=2.9),
    )


def survival(report: Report, sweep_dir: Path) -> Picture | None:
    """Fig. 2: the share of the latents born in a cycle that is still in the core in later cycles."""
    shown = with_numbers(report.cycles)
    shares = {a.setting: _survival(report.replicas[a.setting]) for a in shown}
    if not any(shares.values()):
        return None
    colours = gradation(max((len(a.core_sizes) for a in shown), default=1))
    sizes = {a.setting: _cohort_sizes(report.replicas[a.setting]) for a in shown}
    names = chain_names({a.setting: report.replicas[a.setting] for a in shown})
    chains = {(a.setting, name): chain_survival(report.replicas[a.setting], name) for a in shown for name in names}

    def draw(axis: "Axes", one: One) -> bool:
        births = list(shares[one.setting])
        for n, birth in enumerate(births):
            line = shares[one.setting][birth]
            x = [known_value(birth + age + 0.08 * (n - (len(births) - 1) / 2)) for age in range(len(line))]
            style: Any = {"marker": marker(n), "capsize": 0, "elinewidth": 0.7, "markersize": 4.5}
            points(axis, x, line, color=colours[birth], label=f"born in cycle {birth}", **style)
            size = sizes[one.setting][birth][0].mean
            axis.annotate(f"{size:.3g}", (x[0].mean, 1.0), (0, 5), "data", "offset points", ha="center", fontsize=7)
        for n, name in enumerate(names):
            line, label = chains[one.setting, name], f"{name.replace('_', ' ')} in place of cycle 0's core"
            x = [known_value(cycle + 0.08 * (n + len(births) / 2)) for cycle in range(len(line))]
            chain: Any = {"marker": marker(len(births) + n), "linestyle": "--", "capsize": 0, "elinewidth": 0.7}
            points(axis, x, line, color=("#59636E", "#8C959F")[n % 2], label=label, markersize=4.5, **chain)
        axis.set_ylim(0, 1.14)
        axis.set_yticks([0, 0.25, 0.5, 0.75, 1.0])
        axis.set_xticks(range(len(one.core_sizes)))
        axis.set_xlabel("cycle")
        axis.set_ylabel("share still in the core")
        return bool(births)

    left = [line[0][-1].mean for line in shares.values() if line.get(0)]
    end = f" Of cycle 0's core, {_percents(left)} is left in the last cycle." if left else ""
    if names:
        end += " Dashed lines are controls that ran through all cycles in its place."
    return Picture(
        "survival",
        "Figure 2: survival of the latents born in a cycle",
        "Share of the latents selected in the cycle of their birth that are still in the core; above the first "
        f"point, how many they were (mean over seeds). {seeds_text(shown)}{end} Latents that had survived longer are "
        f"not safer where the lines fall as steeply late as early.{left_out(len(shown))}",
        (*setting_head(shown), "born in cycle", "cycle", *ESTIMATE_HEAD),
        [
            (*setting_cells(a.setting), birth, birth + age, *estimate_cells(value))
            for a in shown
            for birth, line in shares[a.setting].items()
            for age, value in enumerate(line)
        ]
        + [
            (*setting_cells(a.setting), f"{name} in place of 0", cycle, *estimate_cells(value))
            for a in shown
            for name in names
            for cycle, value in enumerate(chains[a.setting, name])
        ],
        lambda: setting_panels(shown, draw),
    )


def score_coverage(report: Report, sweep_dir: Path) -> Picture | str | None:
    """Draw the attribution coverage curve of every cycle; say where the scores are not."""
    shown = with_numbers(report.cycles)
    if not shown:
        return None
    store = cycle_store(sweep_dir, report.output)
    curves = {a.setting: coverage_curves(report.replicas[a.setting], store) for a in shown}
    if not any(curves.values()):
        return f"Attribution coverage curves are left out: the scores of these cycles are not in {store.uri}."
    colours = gradation(max((max(found, default=0) + 1 for found in curves.values()), default=1))

    def draw(axis: "Axes", one: One) -> bool:
        found, tau = curves[one.setting], one.setting.coverage
        for cycle, (at, shares) in found.items():
            lines = [[s.values[seed] for s in shares] for seed in range(shares[0].n)]
            for line in lines if len(lines) > 1 else []:
                axis.plot(at, line, color=colours[cycle], alpha=0.25, linewidth=0.6)
            axis.plot(at, [s.mean for s in shares], color=colours[cycle], linewidth=1.4, label=f"cycle {cycle}")
        if one.setting.core_size is None:
            axis.axhline(tau, color="#59636E", linestyle=":", linewidth=1, label="coverage τ of the setting")
        sizes = one.core_sizes[-1:] if found else ()
        for size in sizes:
            axis.axvline(size.mean, color="#59636E", linestyle="--", linewidth=0.8, label="size of the last core")
        axis.set_ylim(0, 1.03)
        axis.set_xlabel("best latents of the pool")
        axis.set_ylabel("share of the summed score")
        log_axis(axis.xaxis, [n for at, _ in found.values() for n in at])
        return bool(found)

    return Picture(
        "score_coverage",
        "Attribution coverage by cycle",
        "Share of the summed score that the best latents of the candidate pool hold (log axis): thick lines are "
        f"means, thin lines the seeds; {n_text(shown)}. A core is where its cycle's curve crosses the dotted line (of "
        "a given size: the dashed line). A curve that rises later needs more latents for the same share: if it moves "
        "right from cycle to cycle, cores "
        f"grow by the score spreading out, not by better latents.{left_out(len(shown))}",
        (*setting_head(shown), "cycle", "latents", *ESTIMATE_HEAD),
        [
            (*setting_cells(a.setting), cycle, n, *estimate_cells(share))
            for a in shown
            for cycle, (at, shares) in curves[a.setting].items()
            for n, share in zip(at, shares, strict=True)
        ],
        partial(setting_panels, shown, draw),
    )


def _selected(replicas: Sequence[TrialResult], cycles: int) -> tuple[list[Estimate], list[Estimate]]:
    """Return the sizes of the cores by cycle, and how many of their latents the core before had."""
    total = [estimate((r.core_sizes[c] for r in replicas if c < len(r.core_sizes)), "amount") for c in range(cycles)]
    by_cycle = [[report for r in replicas for report in r.reports if report.cycle == c] for c in range(cycles)]
    carried = [estimate((c.carried or 0 for c in reports), "amount") for reports in by_cycle]
    return total, [c if c.n else known_value(0.0) for c in carried]


def _cohort_sizes(replicas: Sequence[TrialResult]) -> Cohorts:
    """Return the sizes of the cohorts by birth, at that and each later cycle; a cohort that a seed lacks has size 0."""
    with_lineage = [r for r in replicas if r.survival]
    cycles = max((len(r.core_sizes) for r in with_lineage), default=0)
    births = sorted({birth for r in with_lineage for birth in r.survival})
    none: tuple[int, ...] = (0,) * cycles
    return {
        birth: [
            estimate((r.survival.get(birth, none)[age] for r in with_lineage), "amount")
            for age in range(cycles - birth)
        ]
        for birth in births
    }


def _survival(replicas: Sequence[TrialResult]) -> Cohorts:
    """Return the share of each cohort that is left; the cohort of the last cycle has nothing to say."""
    shares: Cohorts = {}
    for birth in sorted({birth for r in replicas for birth in r.survival}):
        alive = [r.survival[birth] for r in replicas if birth in r.survival]
        ages = range(max(len(a) for a in alive))
        line = [estimate((a[age] / a[0] for a in alive if age < len(a)), "share") for age in ages]
        if len(line) > 1 and line[0] is not NONE:
            shares[birth] = line
    return shares


def _percents(values: Sequence[float]) -> str:
    low, high = f"{min(values):.0%}", f"{max(values):.0%}"
    return low if low == high else f"{low} to {high} (by setting)"
