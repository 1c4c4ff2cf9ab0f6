"""The files of `dmsae stability`, and the same as a section of a sweep's report."""

import json
from collections.abc import Mapping
from dataclasses import asdict
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING

from dmsae_ray.distill import LineageId
from dmsae_ray.errors import DataError, one_line
from dmsae_ray.files import replacing
from dmsae_ray.plan import CycleSetting
from dmsae_ray.report.found_again import BY, LIMITS, SETS, Again, CoreLatent, Rediscovery
from dmsae_ray.report.page import Section, page
from dmsae_ray.report.panels import left_out
from dmsae_ray.report.picture import ESTIMATE_HEAD, Drawn, Picture, estimate_cells
from dmsae_ray.report.plots import MOST_PANELS, by_name, legend_below, panels, write_title
from dmsae_ray.report.rediscovery_tables import MEASURES, Rediscovered, latent_rows, rediscovery_findings, tables

if TYPE_CHECKING:
    from matplotlib.figure import Figure

NAME, TITLE, REDISCOVERY = "stability", "Rediscovery", "rediscovery"
HOW = (
    "Are the latents of a core found again by SAEs that were trained without it, from other seeds? Each set of latents "
    "is matched one to one with all latents of the other SAE. Its rivals are of the same size and of cycle 0 of the "
    "same trial; chance is as many rows without a meaning, each coordinate of which is that of another latent of the "
    "pool, and activations at tokens in another order. n is the number of seeds of the cores; each is a mean over the "
    "other SAEs."
)
MOST_LATENTS = 2000
"""Latents in the table of the page; the CSV file has all."""


def stability_picture(found: Rediscovery) -> Picture | None:
    """Return the figure; None without numbers."""
    numbers = Rediscovered(found)
    if not numbers.places:
        return None

    def draw() -> "Figure":
        shown = numbers.places[:MOST_PANELS]
        figure, axes = panels(len(shown), width=3.6, height=2.6, columns=2)
        for axis, (setting, kind) in zip(axes, shown, strict=True):
            names = [name for name in SETS if numbers.values(setting, kind, name, "mean decoder")]
            every = [(by, [numbers.estimate(setting, kind, name, f"mean {by}") for name in names]) for by in BY]
            by_name(axis, every, names)
            axis.set_xlim(0, 1.02)
            most = max(len(numbers.values(setting, kind, name, "mean decoder")) for name in names)
            write_title(axis, setting.label, f"{kind}, n = {most}")
            axis.set_xlabel("mean best cosine or correlation")
        legend_below(figure, axes)
        return figure

    return Picture(
        NAME,
        "Found again by SAEs of other seeds",
        "Mean best cosine of encoder and decoder rows, and mean best correlation of activations, one to one. Small "
        f"dots are seeds, bars 95% intervals from three seeds on. Right is better.{left_out(len(numbers.places))}",
        ("setting", "kind", "set", "measure", *ESTIMATE_HEAD),
        [
            (setting.label, kind, name, measure, *estimate_cells(numbers.estimate(setting, kind, name, measure)))
            for setting, kind in numbers.places
            for name in SETS
            for measure in MEASURES
            if numbers.values(setting, kind, name, measure)
        ],
        draw,
    )


def rediscovery_section(found: Rediscovery, sweep_dir: Path) -> Section:
    """Return the section of a sweep's report; its figure is in the sweep's folder of figures."""
    picture = stability_picture(found)
    return _section(found, None if picture is None else picture.write(sweep_dir / "figures", "changed"))


def _section(found: Rediscovery, drawn: Drawn | None, report: str = "") -> Section:
    """Return a section of a page.

    Args:
        found: what was found.
        drawn: its figure.
        report: the page that has the pages of latents; empty if it is this one.
    """
    lines = "".join(f"<li>{escape(line)}</li>" for line in rediscovery_findings(found))
    lacks = "".join(f"<li>{escape(line)}</li>" for line in found.lacks)
    parts = [f'<p class="soft">{escape(HOW)}</p>', f"<ul>{lines}</ul>", drawn.html() if drawn is not None else ""]
    parts += [table.html() for table in tables(found)]
    parts += [_latents(found, report), f'<ul class="soft">{lacks}</ul>' if lacks else ""]
    return Section(REDISCOVERY, TITLE, "\n".join(part for part in parts if part))


def write_stability(
    found: Rediscovery, folder: Path, *, name: str, report: str = "", settings: Mapping[str, object] | None = None
) -> Path:
    """Write stability.html, .md, .json, the figure and the latents (CSV) into a folder; return the page.

    Args:
        found: what was found.
        folder: the folder.
        name: name of the sweep.
        report: the page that has the pages of latents, relative to the folder.
        settings: how it was asked, noted in the JSON file.
    """
    picture = stability_picture(found)
    drawn = None if picture is None else picture.write(folder)
    title = f"{TITLE}: {name}"
    numbers = {
        "settings": dict(settings or {}),
        "findings": rediscovery_findings(found),
        "tokens": found.tokens,
        "again": [asdict(again) for again in found.again],
        "latents": [{**asdict(latent), "lineage": list(latent.lineage)} for latent in found.latents],
        "lacks": list(found.lacks),
    }
    lines = "\n".join(f"- {line}" for line in (*rediscovery_findings(found), *found.lacks))
    shown = "" if drawn is None else f"![{drawn.picture.title}]({drawn.png.name})\n\n{drawn.caption}\n\n"
    text = f"# {title}\n\n{HOW}\n\n{lines}\n\n{shown}" + "\n".join(table.markdown() for table in tables(found))
    head = ("trial", "latent", "SAEs", *(f"at_{limit}" for limit in LIMITS), "mean_cosine")
    csv = "\n".join(",".join(map(str, row)) for row in (head, *latent_rows(found))) + "\n"
    for file, content in (
        (f"{NAME}.json", json.dumps(numbers, indent=1)),
        (f"{NAME}.md", text),
        (f"{NAME}_latents.csv", csv),
        (f"{NAME}.html", page(title, [_section(found, drawn, report)])),
    ):
        with replacing(folder / file) as temporary:
            temporary.write_text(content, encoding="utf-8")
    return folder / f"{NAME}.html"


def read_stability(folder: Path) -> Rediscovery | None:
    """Return what `write_stability` wrote into a folder; None if it wrote nothing there.

    Raises:
        DataError: The file is damaged.
    """
    path = folder / f"{NAME}.json"
    if not path.is_file():
        return None
    try:
        tree = json.loads(path.read_text(encoding="utf-8"))
        again = [Again(**{**one, "setting": CycleSetting(**one["setting"])}) for one in tree["again"]]
        latents = [
            CoreLatent(one["trial"], LineageId(*one["lineage"]), tuple(one["decoder"]), tuple(one["activations"]))
            for one in tree["latents"]
        ]
        return Rediscovery(tuple(again), tuple(latents), tree["tokens"], tuple(tree["lacks"]))
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise DataError(f"{path}: not what `dmsae stability` writes ({one_line(error)}); run it again") from None


def _latents(found: Rediscovery, report: str) -> str:
    """Return a table of the distilled cores' latents with links to their pages, those that are found least first."""
    rows = sorted(found.latents, key=lambda latent: (latent.found(LIMITS[0]) / len(latent.decoder), latent.anchor))
    if not rows:
        return ""
    head = "".join(f"<th>{name}</th>" for name in ("latent", "SAEs", *(f"at {limit}" for limit in LIMITS), "mean"))
    body = "\n".join(
        f'<tr><td><a href="{escape(report)}#latent-{escape(row.anchor)}">{escape(row.anchor)}</a></td>'
        f"<td>{len(row.decoder)}</td>"
        + "".join(f"<td>{row.found(limit)}</td>" for limit in LIMITS)
        + f"<td>{sum(row.decoder) / len(row.decoder):.2f}</td></tr>"
        for row in rows[:MOST_LATENTS]
    )
    said = f"{len(rows)} latents of distilled cores: in how many SAEs of other seeds, by decoder cosine"
    table = f'<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>\n{body}\n</tbody></table></div>'
    return f"<details><summary>{said}</summary>{table}</details>"
