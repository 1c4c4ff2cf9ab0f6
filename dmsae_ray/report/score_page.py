"""The files of `dmsae score`: tables, figures, page, numbers."""

import json
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING

from dmsae_ray.files import replacing
from dmsae_ray.report.page import Section, page
from dmsae_ray.report.panels import left_out
from dmsae_ray.report.picture import ESTIMATE_HEAD, Picture, estimate_cells
from dmsae_ray.report.plots import MOST_PANELS, by_name, legend_below, panels, write_title
from dmsae_ray.report.score_agreement import MEASURES, REFERENCE, Agreement, ScoredCycle
from dmsae_ray.report.score_sizes import size_curves, size_numbers, size_picture, size_table
from dmsae_ray.report.tables import Table

if TYPE_CHECKING:
    from matplotlib.figure import Figure

NAME = "scores"
SCORES_FILE = f"{NAME}.json"
HOW = (
    "Which score says what matters? Each score ranks the same pool of latents of the same SAE. The reference is exact "
    "ablation: by how much the expected next-token loss rises when the latent is taken out of the residual stream; "
    "what the SAE leaves unexplained stays in. 'ablation, text' is the same at the next tokens of the text, which is "
    "noisier; 'ablation, spliced' is within the reconstruction alone, where the loss is not at its best, so that a "
    "latent may change it by what it shares with the error. Both are of the same tokens as the reference, so that they "
    "share its noise; all other scores are of other tokens. 'integrated gradients' shares out what the whole pool "
    "does to the expected loss, along the path from none of it to all. Overlap is of the n best, n the size of the "
    "core that was selected from the cycle: the shared latents over the mean size of both sets, which are smaller than "
    "n where fewer latents have a positive score; no selection takes others. Retest compares a score on two halves of "
    "its tokens; size is what reaches the coverage. In the column n is the number of seeds with SAEs of their own."
)
_CURVES = "<curves>"
STAR = "* not 0 at 5%, all of the table corrected together (Holm)"


def score_findings(agreement: Agreement) -> list[str]:
    """Return what was found, a sentence for each setting, cycle and pool."""
    lines = []
    for own in sorted({c.own for c in agreement.cycles}):
        differences, told = agreement.against(own), set[frozenset[str]]()
        for place in agreement.places:
            keys = agreement.keys(place)
            if agreement.own(place) != own or keys in told:
                continue  # the same SAEs, at another coverage
            told.add(keys)
            if not agreement.values(place, own, "rank"):
                continue
            means = {
                name: agreement.estimate(place, name, "rank")
                for name in agreement.names
                if not name.startswith(REFERENCE)
            }
            known = {name: value for name, value in means.items() if value.n}
            if not known:
                continue
            top = max(known, key=lambda name: known[name].mean)
            quantiles = {name: value for name, value in known.items() if name.startswith("quantile")}
            q = max(quantiles, key=lambda name: quantiles[name].mean) if quantiles else None
            retest = agreement.estimate(place, REFERENCE, "retest rank")
            said = f"{agreement.label(place)}, cycle {place.cycle}: {top} agrees best with exact ablation, "
            said += known[top].text()
            said += f"; the run's {own} {known[own].text()}" if top != own and own in known else ""
            difference = differences.get((place, top))
            said += f" (difference {difference.text()})" if difference is not None and top != own else ""
            said += f"; of the quantiles {q} {known[q].text()}" if q is not None and q not in (top, own) else ""
            lines.append(f"{said}. Ablation agrees with itself on other tokens by {retest.text()}.")
    return lines


def score_tables(agreement: Agreement) -> list[Table]:
    """Return the tables."""
    rows = []
    for place in agreement.places:
        for name in agreement.names:
            cells = {m: agreement.estimate(place, name, m) for m in MEASURES}
            n = len(agreement.at(place))
            texts = [cell.text(0 if m == "size" else 2) for m, cell in cells.items()]
            texts = [f"{t}, n = {c.n}" if 0 < c.n < n else t for t, c in zip(texts, cells.values(), strict=True)]
            rows.append((agreement.label(place), str(place.cycle), name, str(n), *texts))
    head = ("setting", "cycle", "score", "n", *(m.replace(" ", "\n") for m in MEASURES))
    made = [Table("Agreement with exact ablation, and of each score with itself", head, tuple(rows))]
    for own in sorted({c.own for c in agreement.cycles}):
        found = agreement.against(own)
        rows = [(agreement.label(at), str(at.cycle), name, d.text()) for (at, name), d in found.items()]
        title = f"Rank correlation with ablation less that of the run's {own}; {STAR}"
        made.append(Table(title, ("setting", "cycle", "score", "difference"), tuple(rows)))
    return [table for table in made if table.rows]


def score_picture(agreement: Agreement) -> Picture | None:
    """Return the figure; None without numbers."""
    names = [name for name in agreement.names if name != REFERENCE]
    if not agreement.places or not any(agreement.values(p, name, "rank") for p in agreement.places for name in names):
        return None

    def draw() -> "Figure":
        shown = agreement.places[:MOST_PANELS]
        figure, axes = panels(len(shown), width=3.6, height=3.1, columns=2)
        for axis, place in zip(axes, shown, strict=True):
            labels = (("rank", "with ablation"), ("retest rank", "with itself on other tokens"))
            every = [
                (f"rank correlation {label}", [agreement.estimate(place, name, measure) for name in names])
                for measure, label in labels
            ]
            by_name(axis, every, names)
            axis.axvline(0, color="#59636E", linewidth=0.8)
            most = max(len(agreement.values(place, name, "rank")) for name in names)
            write_title(axis, agreement.label(place), f"cycle {place.cycle}, n = {most}")
            axis.set_xlabel("rank correlation")
        legend_below(figure, axes)
        return figure

    return Picture(
        NAME,
        "Which score says what matters",
        "Spearman's rank correlation over the pool: of each score with exact ablation, and with itself on the other "
        "half of its tokens. Small dots are seeds, bars 95% intervals from three seeds on."
        f"{left_out(len(agreement.places))}",
        ("setting", "cycle", "score", "measure", *ESTIMATE_HEAD),
        [
            (
                agreement.label(place),
                place.cycle,
                name,
                m,
                *estimate_cells(agreement.estimate(place, name, m)),
            )
            for place in agreement.places
            for name in agreement.names
            for m in MEASURES
        ],
        draw,
    )


def write_scores(
    cycles: Sequence[ScoredCycle],
    folder: Path,
    *,
    name: str,
    settings: Mapping[str, object],
    lacks: Sequence[str] = (),
) -> Path:
    """Write scores.html, .md, .json and the figures into a folder; return the page.

    Args:
        cycles: the scored cycles.
        folder: the folder.
        name: name of the sweep.
        settings: how it was asked, noted in the JSON file.
        lacks: a line for each thing that is in no number.
    """
    agreement = Agreement(cycles)
    curves, lines = size_curves(agreement), [*score_findings(agreement), *agreement.lacks(), *lacks]
    made = [*score_tables(agreement), size_table(agreement, curves)]
    pictures = (score_picture(agreement), size_picture(agreement, curves))
    drawn = [one for picture in pictures if picture is not None and (one := picture.write(folder)) is not None]
    title = f"Scores: {name}"
    shown = "".join(f"![{one.picture.title}]({one.png.name})\n\n{one.caption}\n\n" for one in drawn)
    text = f"# {title}\n\n{HOW}\n\n" + "\n".join(f"- {line}" for line in lines) + f"\n\n{shown}"
    body = [f'<p class="soft">{escape(HOW)}</p><ul>{"".join(f"<li>{escape(line)}</li>" for line in lines)}</ul>']
    body += [one.html() for one in drawn]
    html = page(title, [Section("scores", "Scores", "\n".join([*body, *(table.html() for table in made)]))])
    numbers = {
        "settings": dict(settings),
        "own": {c.setting.label: c.own for c in cycles},
        "findings": lines,
        "overlaps": [
            {"setting": c.setting.label, "cycle": c.cycle, "seed": c.seed, "overlap": overlap}
            for c in cycles
            if c.chose and (overlap := c.measure(c.own, "overlap")) is not None
        ],
        "curves": _CURVES,
        "rows": [dict(zip(table.names, row, strict=True)) for table in made for row in table.rows],
    }
    each = ",\n  ".join(json.dumps(curve) for curve in size_numbers(agreement, curves))
    data = json.dumps(numbers, indent=1).replace(f'"{_CURVES}"', f"[\n  {each}\n ]")  # a line a curve
    for file, content in (
        (f"{NAME}.json", data),
        (f"{NAME}.md", text + "\n".join(table.markdown() for table in made)),
        (f"{NAME}.html", html),
    ):
        with replacing(folder / file) as temporary:
            temporary.write_text(content, encoding="utf-8")
    return folder / f"{NAME}.html"
