"""The files of `dmsae eval`: numbers of each arm against measured L0, differences at equal L0, page."""

import json
import math
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dmsae_ray.files import nan_to_null, replacing
from dmsae_ray.plan import TransferSetting
from dmsae_ray.report.budgets import equal_flop_notes
from dmsae_ray.report.equal_l0 import AtEqualL0, compare
from dmsae_ray.report.estimates import FEWEST
from dmsae_ray.report.evaluated import NO_CORE, Evaluated, EvaluatedSAE
from dmsae_ray.report.page import Section, page
from dmsae_ray.report.picture import ESTIMATE_HEAD, Drawn, Picture, Which, estimate_cells
from dmsae_ray.report.plots import colour, legend_below, log_axis, marker, panels, points
from dmsae_ray.report.quality_metrics import says, shown_metric, shown_metrics
from dmsae_ray.report.tables import Table
from dmsae_ray.results import load_results

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Settings = Mapping[str, Mapping[str, Any]]
"""By evaluation, what its numbers depend on beside the SAE."""
NAME = "quality"
MOST_NUMBERS = 9
"""Panels of a figure."""
HOW = (
    "What are the SAEs worth? L0 is measured, core included. SAEs of one k have different L0 (a dense core fires "
    "beside the k others), so compare curves at one L0: the table of differences interpolates the rival's value, "
    "linear in log L0, at the L0 of each SAE, seed by seed, and extrapolates nowhere. FLOP is the training of the SAEs "
    "over that of the rival; 'with cycles' counts the trainings that made the core too (of a given core as many as its "
    "file says, each like that of the SAE). 'At equal FLOP' interpolates the rival between its budgets too, linear in "
    "log FLOP, to the FLOP of each SAE. SAEBench's definitions are its own: its L0 and losses leave out BOS, EOS and "
    "padding and no high norms, its loss recovered is against zero ablation."
)
STAR = "* not 0 at 5%, all of the table corrected together (Holm)"


def quality_findings(saes: Sequence[EvaluatedSAE]) -> list[str]:
    """Return what was found, a sentence for each arm and rival."""
    return _findings(compare(evaluated := Evaluated(saes), _directed(evaluated)))


def write_quality(saes: Sequence[EvaluatedSAE], folder: Path, *, name: str, settings: Settings | None = None) -> Path:
    """Write quality.html, .md, .json and the figures into a folder; return the page.

    Args:
        saes: the evaluated SAEs.
        folder: the folder.
        name: name of the sweep.
        settings: what the numbers of each evaluation depend on, beside the SAE.
    """
    evaluated = Evaluated(saes)
    found = compare(evaluated, _directed(evaluated))
    lines = _findings(found) + _notes(evaluated, settings or {})
    drawn = [picture.write(folder / "figures") for picture in _pictures(evaluated)]
    tables = _tables(evaluated, found)
    title = f"Quality: {name}"
    shown = "".join(f"![{d.picture.title}](figures/{d.png.name})\n\n{d.caption}\n\n" for d in drawn if d is not None)
    text = f"# {title}\n\n{HOW}\n\n" + "\n".join(f"- {line}" for line in lines) + f"\n\n{shown}"
    section = _section(lines, [d for d in drawn if d is not None], tables)
    for file, content in (
        (f"{NAME}.json", json.dumps(nan_to_null(_tree(evaluated, found, lines, settings or {})), indent=1)),
        (f"{NAME}.md", text + "\n".join(table.markdown() for table in tables)),
        (f"{NAME}.html", page(title, [section])),
    ):
        with replacing(folder / file) as temporary:
            temporary.write_text(content, encoding="utf-8")
    return folder / f"{NAME}.html"


def stored_quality(sweep_dir: Path, draw: Which = "changed") -> Section | None:
    """Return what the last `dmsae eval` of a sweep found, as a section of its report; None if there was none.

    Trials that have changed or are gone since then are left out.

    Args:
        sweep_dir: the sweep's folder.
        draw: which figures are drawn.
    """
    try:
        tree = json.loads((sweep_dir / f"{NAME}.json").read_text(encoding="utf-8"))
        measured = {(row["trial"], row["key"]): dict(row["metrics"]) for row in tree["saes"]}
    except (OSError, ValueError, KeyError, TypeError):
        return None
    saes = [
        EvaluatedSAE(result, report, metrics={name: v for name, v in metrics.items() if v is not None})
        for result in load_results(sweep_dir)
        for report in (*result.reports, *result.beside)
        if (metrics := measured.get((result.trial_id, report.key))) is not None
    ]
    if not saes:
        return None
    evaluated = Evaluated(saes)
    found = compare(evaluated, _directed(evaluated))
    drawn = [picture.write(sweep_dir / "figures", which=draw) for picture in _pictures(evaluated)]
    lines = _findings(found) + _notes(evaluated, stored_settings(sweep_dir))
    return _section(lines, [d for d in drawn if d is not None], _tables(evaluated, found))


def stored_settings(sweep_dir: Path) -> dict[str, dict[str, Any]]:
    """Return the settings, by evaluation, of the numbers in a sweep's page; empty where there is none."""
    try:
        found = json.loads((sweep_dir / f"{NAME}.json").read_text(encoding="utf-8"))["settings"]
        return {str(name): dict(settings) for name, settings in found.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}


def _section(lines: Sequence[str], drawn: Sequence[Drawn], tables: Sequence[Table]) -> Section:
    """Return the section of a page."""
    items = "".join(f"<li>{escape(line)}</li>" for line in lines)
    body = [f'<p class="soft">{escape(HOW)}</p><ul>{items}</ul>', *(table.html() for table in tables[:1])]
    body += [d.html() for d in drawn]
    return Section(NAME, "Quality", "\n".join([*body, *(table.html() for table in tables[1:])]))


def _tables(evaluated: Evaluated, found: Sequence[AtEqualL0]) -> list[Table]:
    """Return the tables: differences at equal L0, then the numbers of each evaluation by arm and k."""
    made = []
    if found:
        rows = [
            (
                shown_metric(one.name).label,
                one.arm.label,
                one.rival_label,
                str(one.difference.n),
                one.difference.text(3),
                one.verdict or "-",
                f"{one.compared[0]} of {one.compared[1]}",
                *(f"{flops:.2f}" if flops == flops else "-" for flops in one.flops),
            )
            for one in found
        ]
        head = ("number", "arm", "rival", "n", "arm less rival\nat equal L0", "is", "SAEs com-\npared")
        made.append(Table(f"At equal L0; {STAR}", (*head, "FLOP", "FLOP with\ncycles"), tuple(rows)))
    for evaluation in _evaluations(evaluated):
        names = [name for name in _names(evaluated) if name.startswith(f"{evaluation}/")]
        rows = []
        for arm in evaluated.arms:
            for k in evaluated.ks(arm):
                cells = [evaluated.estimate(arm, k, name) for name in names]
                if any(cell.n for cell in cells):
                    n = max(cell.n for cell in cells)
                    l0 = evaluated.estimate(arm, k, "l0").text(1)
                    rows.append((arm.label, str(k), str(n), l0, *(cell.text(3) for cell in cells)))
        labels = [shown_metric(name).label.replace(" ", "\n") for name in names]
        made.append(Table(f"{evaluation}: {says(evaluation)}", ("arm", "k", "n", "L0", *labels), tuple(rows)))
    return [table for table in made if table.rows]


def _pictures(evaluated: Evaluated) -> list[Picture]:
    """Return a figure for each evaluation: its numbers against measured L0 (Figures 4 and 7 of the paper)."""
    return [_picture(evaluated, evaluation) for evaluation in _evaluations(evaluated)]


def _picture(evaluated: Evaluated, evaluation: str) -> Picture:
    names = [name for name in _names(evaluated) if name.startswith(f"{evaluation}/")]
    drawn = names[:MOST_NUMBERS]

    def draw() -> "Figure":
        figure, axes = panels(len(drawn), width=3.4, height=2.8)
        reach = [sae.l0 for sae in evaluated.saes if not math.isnan(sae.l0)]
        for axis, name in zip(axes, drawn, strict=True):
            log_axis(axis.xaxis, reach)
            for n, arm in enumerate(evaluated.arms):
                ks = evaluated.ks(arm)
                x = [evaluated.estimate(arm, k, "l0") for k in ks]
                y = [evaluated.estimate(arm, k, name) for k in ks]
                line = "--" if arm.sparsity == "sparse" else ":" if arm.core == NO_CORE else "-"
                points(axis, x, y, color=colour(n), marker=marker(n), linestyle=line, label=arm.label)
            shown = shown_metric(name)
            better = {"higher": " (higher is better)", "lower": " (lower is better)"}.get(shown.better, "")
            axis.set_title(f"{shown.label}{better}", fontsize=8.5)
            axis.set_xlabel("measured L0, core included")
            axis.margins(y=0.12)
        legend_below(figure, axes, columns=3)
        return figure

    counts = [evaluated.estimate(arm, k, names[0]).n for arm in evaluated.arms for k in evaluated.ks(arm)]
    unit = "bearing cores" if evaluated.several else "seeds"
    spread = "bars are 95% intervals, small dots" if max(counts, default=0) >= FEWEST else "small dots are"
    transfer = any(isinstance(sae.result.setting, TransferSetting) for sae in evaluated.saes)
    more = f" The first {MOST_NUMBERS} of {len(names)} numbers are drawn." if len(names) > MOST_NUMBERS else ""
    return Picture(
        f"{NAME}_{evaluation}",
        f"{'Figures 4 and 7, ' if transfer else ''}{evaluation}: {says(evaluation)}",
        f"Against the L0 that the SAEs have (log axis); n = {max(counts, default=0)} {unit} at most; {spread} the "
        f"{unit}. Points of one k are not comparable where their L0 differs.{more}",
        ("arm", "k", "number", *(f"L0 {c}" for c in ESTIMATE_HEAD), *ESTIMATE_HEAD),
        [
            (
                arm.label,
                k,
                name,
                *estimate_cells(evaluated.estimate(arm, k, "l0")),
                *estimate_cells(evaluated.estimate(arm, k, name)),
            )
            for arm in evaluated.arms
            for k in evaluated.ks(arm)
            for name in names
        ],
        draw,
    )


def _findings(found: Sequence[AtEqualL0]) -> list[str]:
    lines = []
    for arm, rival in dict.fromkeys((one.arm, one.rival_label) for one in found):
        tested = [one for one in found if (one.arm, one.rival_label) == (arm, rival) and one.difference.n]
        head = f"At equal L0, {arm.label} against {rival}"
        if not tested:
            lines.append(f"{head}: nothing to compare, since no SAE has an L0 that the rival's SAEs reach.")
            continue
        most = max(one.difference.n for one in tested)
        if most < FEWEST:
            lines.append(f"{head}: n = {most}, too few to show a difference in any of {len(tested)} numbers.")
            continue
        parts = []
        for verdict in ("better", "worse"):
            named = [f"{shown_metric(o.name).label} {o.difference.text(3)}" for o in tested if o.verdict == verdict]
            if named:
                parts.append(f"{verdict} in {', '.join(named)}")
        rest = sum(not one.verdict for one in tested)
        parts += [f"no difference shown in {rest} of {len(tested)} numbers"] if rest else []
        lines.append(f"{head}: {'; '.join(parts)} (n = {most}).")
    return lines


def _notes(evaluated: Evaluated, settings: Settings) -> list[str]:
    """Return what else is to be known of the numbers, a sentence each."""
    notes = equal_flop_notes(evaluated)
    if (text := settings.get("core", {}).get("text")) is not None and "core" in _evaluations(evaluated):
        read = "the sweep's held-out tokens" if "store" in text else f"the data set {text.get('dataset')}"
        notes.append(f"core read {read}.")
    notes += [
        f"{name} read texts of the user's own in place of the benchmark's."
        for name in _evaluations(evaluated)
        if settings.get(name, {}).get("data")
    ]
    shared = len({(sae.sweep, sae.key) for sae in evaluated.saes}) - len({sae.key for sae in evaluated.saes})
    if evaluated.several and shared:
        notes.append(
            f"The sweeps share SAEs ({shared} stand in more than one): intervals over bearing cores hold how much "
            "cores differ, and not how much those SAEs would."
        )
    return notes


def _evaluations(evaluated: Evaluated) -> list[str]:
    return list(dict.fromkeys(name.partition("/")[0] for name in _names(evaluated)))


def _names(evaluated: Evaluated) -> list[str]:
    """Return the names of the numbers that are shown and that some SAE has."""
    have = set(evaluated.names)
    evaluations = dict.fromkeys(name.partition("/")[0] for name in evaluated.names)
    return [f"{e}/{s.name}" for e in evaluations for s in shown_metrics(e) if f"{e}/{s.name}" in have]


def _directed(evaluated: Evaluated) -> list[str]:
    """Return the names of the numbers of which one way is better."""
    return [name for name in _names(evaluated) if shown_metric(name).better != "neither"]


def _tree(
    evaluated: Evaluated, found: Sequence[AtEqualL0], lines: Sequence[str], settings: Settings
) -> dict[str, object]:
    """Return everything for quality.json: all numbers of all SAEs, shown or not."""
    return {
        "findings": list(lines),
        "settings": dict(settings),
        "saes": [
            {
                "sweep": sae.sweep,
                "trial": sae.result.trial_id,
                "cycle": sae.report.cycle,
                "arm": sae.arm.label,
                "k": sae.k,
                "seed": sae.seed,
                "key": sae.key,
                "l0": sae.l0,
                "flops": sae.report.flops,
                "metrics": dict(sae.metrics),
            }
            for sae in evaluated.saes
        ],
        "at_equal_l0": [
            {
                "number": one.name,
                "arm": one.arm.label,
                "rival": one.rival_label,
                "equal_flop": one.equal_flop,
                "mean": one.difference.mean,
                "low": one.difference.low,
                "high": one.difference.high,
                "p": one.difference.p,
                "values": list(one.difference.values),
                "n": one.difference.n,
                "is": one.verdict,
                "compared": list(one.compared),
                "flops": one.flops[0],
                "flops_with_cycles": one.flops[1],
            }
            for one in found
        ],
    }
