"""The figures of a fixed core in use: its L0 while an SAE trains around it, and transfer."""

from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dmsae_ray.config import axes_label, axes_order
from dmsae_ray.distill import DISTILLED
from dmsae_ray.plan import TransferSetting, axes_of, times_the_tokens
from dmsae_ray.report.curves import Band, final_cycle_bands
from dmsae_ray.report.estimates import FEWEST, estimate
from dmsae_ray.report.panels import collapsed_text, left_out, seeds_text, with_numbers
from dmsae_ray.report.picture import ESTIMATE_HEAD, Picture, estimate_cells
from dmsae_ray.report.plots import (
    MOST_PANELS,
    colour,
    large_numbers,
    legend_below,
    log_axis,
    marker,
    no_data,
    panels,
    points,
    write_title,
)
from dmsae_ray.report.report import Report
from dmsae_ray.report.tables import axis_names, axis_texts
from dmsae_ray.tracking import JOURNAL_FILE

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Bands = Mapping[str, Mapping[str, Band]]
_Series = tuple[str, str, float, tuple[tuple[str, Any], ...]]


def core_l0(report: Report, sweep_dir: Path) -> Picture | str | None:
    """Fig. 3: how much the core is used while the last cycle trains, distilled core against control cores."""
    trials = [r for replicas in report.replicas.values() for r in replicas]
    bands: dict[str, Mapping[str, Band]] = dict(final_cycle_bands(trials, sweep_dir / JOURNAL_FILE, "l0_core"))
    if not bands:
        return "Figure 3, the core's L0 while the last cycle trains, is left out: the journal has no curve of it."
    order = [a.setting.label for a in with_numbers(report.cycles)]
    names = [*order, *sorted(name for name in bands if name not in order)]
    arms = sorted({arm for found in bands.values() for arm in found}, key=lambda arm: (arm != DISTILLED, arm))

    def draw() -> "Figure":
        shown = names[:MOST_PANELS]
        figure, axes = panels(len(shown))
        for axis, name in zip(axes, shown, strict=True):
            found = bands.get(name, {})
            for n, arm in enumerate(arms):
                if arm in found:
                    _draw_band(axis, found[arm], colour(n), ("-", "--", ":", "-.")[n % 4], _arm_name(arm))
            if not found:
                no_data(axis)
            n_seeds = max((v.n for band in found.values() for v in band.values), default=0)
            axis.set_ylim(bottom=0)
            write_title(axis, name, f"n = {n_seeds}")
            large_numbers(axis.xaxis)
            axis.set_xlabel("training tokens of the cycle")
            axis.set_ylabel("core L0 (latents a token)")
        legend_below(figure, axes)
        return figure

    n = sorted({v.n for found in bands.values() for band in found.values() for v in band.values})
    seeds = f"n = {n[0]}" if len(n) == 1 else f"n = {n[0]} to {n[-1]}"
    rest = collapsed_text([*report.cycles, *report.transfers])
    if n[-1] >= FEWEST:
        spread = f"{seeds} seeds{rest}; shaded: 95% interval over the seeds"
    else:
        spread = f"{seeds} seeds{rest}: too few for an interval" + (", thin lines are the seeds" if n[-1] > 1 else "")
    return Picture(
        "core_l0",
        "Figure 3: L0 of the core while the last cycle trains",
        "Latents of the core that fire at a token, in training, for the distilled core and for controls that are "
        f"trained in its place; lines are means. {spread}. {which_fires_more(bands)}{left_out(len(names))}",
        ("panel", "core", "tokens", *ESTIMATE_HEAD),
        [
            (name, arm, token, *estimate_cells(estimate(value.values, "amount")))
            for name in names
            for arm, band in bands.get(name, {}).items()
            for token, value in zip(band.tokens, band.values, strict=True)
        ],
        draw,
    )


def which_fires_more(bands: Bands) -> str:
    """Say which core fires more at the end of the training, and what the paper saw."""
    pairs = [
        (found[DISTILLED].values[-1].mean, band.values[-1].mean)
        for found in bands.values()
        for arm, band in found.items()
        if arm != DISTILLED and DISTILLED in found
    ]
    if not pairs:
        return "There is no control to compare with."
    more = sum(control > own for own, control in pairs)
    paper = "The paper saw, on Gemma-2-2B, a random core's L0 go toward 0 in training, and not the distilled core's"
    if len(pairs) == 1:
        own, control = pairs[0]
        which = "control" if more else "distilled"
        here = f"At the end the {which} core fires more here ({max(own, control):.1f} against {min(own, control):.1f})"
    else:
        here = f"At the end the control core fires more than the distilled one in {more} of {len(pairs)} comparisons"
    if more == len(pairs):
        return f"{here}. {paper}: here it is the reverse."
    return f"{here}. {paper}: here {'the direction is the same' if more == 0 else 'it depends on the setting'}."


def transfer(report: Report, sweep_dir: Path) -> Picture | None:
    """Figs. 4 and 7: SAEs around a fixed core against the baseline, at measured total L0."""
    shown = [a for a in report.transfers if a.seeds]
    if not shown:
        return None
    names = (("loss_recovered", "loss recovered"), ("fvu", "fraction of variance unexplained"))
    series = sorted({_series(a.setting) for a in shown}, key=lambda s: (s[0] != DISTILLED, s[:3], axes_order(s[3])))
    axes_used = axes_of(a.setting for a in shown)

    def draw() -> "Figure":
        figure, axes = panels(2, width=4.2, height=3.2)
        reach = [a.metrics["l0"] for a in shown]
        l0 = [v for found in reach for v in (*found.values, *(found.interval or ()))]
        for axis, (name, label) in zip(axes, names, strict=True):
            log_axis(axis.xaxis, l0)
            for n, one_series in enumerate(series):
                arm, sparsity, budget, point = one_series
                line = [a for a in shown if _series(a.setting) == one_series]
                line.sort(key=lambda a: a.metrics["l0"].mean)
                x, y = [a.metrics["l0"] for a in line], [a.metrics[name] for a in line]
                what = [_arm_name(arm), sparsity]
                if arm == "baseline":
                    what = ["no core (baseline)", times_the_tokens(budget)]
                text = ", ".join(filter(None, (*what, axes_label(point))))
                style = "--" if sparsity == "sparse" else "-"
                points(axis, x, y, color=colour(n), marker=marker(n), linestyle=style, label=text)
                if n == 0:
                    for at, one in zip(x, line, strict=True):
                        place: Any = {
                            "xytext": (0, 7),
                            "textcoords": "offset points",
                            "fontsize": 7,
                            "color": colour(n),
                        }
                        axis.annotate(f"k = {one.setting.k}", (at.mean, one.metrics[name].mean), **place)
            axis.set_xlabel("measured L0, core included (latents a token)")
            axis.set_ylabel(label)
            axis.margins(y=0.12)
        legend_below(figure, axes, columns=3)
        return figure

    return Picture(
        "transfer",
        "Figures 4 and 7: transfer of a fixed core",
        "SAEs trained around a fixed core, around a random core with the same norms, and without a core, against the "
        f"L0 that they have (log axis). {seeds_text(shown)} A curve is better where it is higher on the left and "
        "lower on the right panel at the same L0; points of one k are not comparable where their L0 differs.",
        (
            "k",
            "core",
            "sparsity of the core",
            "budget",
            *axis_names(axes_used),
            "metric",
            *(f"L0 {c}" for c in ESTIMATE_HEAD),
            *ESTIMATE_HEAD,
        ),
        [
            (
                a.setting.k,
                a.setting.arm,
                a.setting.core_sparsity,
                a.setting.budget,
                *axis_texts(a.setting, axes_used),
                name,
                *estimate_cells(a.metrics["l0"]),
                *estimate_cells(a.metrics[name]),
            )
            for a in shown
            for name, _ in names
        ],
        draw,
    )


def _series(setting: TransferSetting) -> _Series:
    return setting.arm, setting.core_sparsity, setting.budget, setting.axes


def _draw_band(axis: "Axes", band: Band, paint: str, style: str, label: str) -> None:
    values = [estimate(v.values, "amount") for v in band.values]
    axis.plot(band.tokens, [v.mean for v in values], color=paint, linestyle=style, label=label)
    ends = [v.interval for v in values]
    known = [(t, *e) for t, e in zip(band.tokens, ends, strict=True) if e is not None]
    if known:
        tokens, low, high = zip(*known, strict=True)
        axis.fill_between(tokens, low, high, color=paint, alpha=0.15, linewidth=0)
        return
    same = all(a.n == b.n for a, b in pairwise(values))
    for seed in range(values[0].n if same and values[0].n > 1 else 0):
        axis.plot(band.tokens, [v.values[seed] for v in values], color=paint, linewidth=0.6, alpha=0.5, linestyle=style)


def _arm_name(arm: str) -> str:
    return "distilled core" if arm == DISTILLED else f"{arm.replace('_', ' ')} core"
