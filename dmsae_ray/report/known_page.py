"""The files of the benchmark with known features: page, Markdown, figures, numbers."""

import json
from collections.abc import Mapping
from html import escape
from pathlib import Path

from dmsae_ray.files import nan_to_null, replacing
from dmsae_ray.report.known_features import KnownFeatures
from dmsae_ray.report.known_findings import findings
from dmsae_ray.report.known_pictures import NAME, pictures
from dmsae_ray.report.known_tables import tables
from dmsae_ray.report.page import Section, page

TITLE = "Known features: what distillation finds, and what its rivals find"


def write_known_features(known: KnownFeatures, folder: Path, settings: Mapping[str, object]) -> Path:
    """Write groundtruth.html, .md and .json and the figures into a folder; return the page.

    Args:
        known: the replicas.
        folder: the folder; it is made.
        settings: what the replicas share, noted in the JSON file.
    """
    folder.mkdir(parents=True, exist_ok=True)
    drawn = [d for picture in pictures(known) if (d := picture.write(folder)) is not None]
    made, lines, lead = tables(known), findings(known), _lead(known)
    numbers = {
        "settings": nan_to_null(dict(settings)),
        "findings": lines,
        "replicas": [r.as_dict() for r in known.replicas],
    }
    shown = "\n\n".join(f"![{d.picture.title}]({d.png.name})\n\n{d.caption}" for d in drawn)
    bullets = "\n".join(f"- {line}" for line in lines)
    parts = [f"# {TITLE}", lead, bullets, shown, "\n".join(t.markdown() for t in made).rstrip()]
    markdown = "\n\n".join(part for part in parts if part) + "\n"
    head = f'<p class="soft">{escape(lead)}</p><ul>{"".join(f"<li>{escape(line)}</li>" for line in lines)}</ul>'
    bodies = {"Figures": "\n".join(d.html() for d in drawn), "Tables": "\n".join(t.html() for t in made)}
    sections = [Section(name.lower(), name, body) for name, body in bodies.items() if body]
    for name, content in (
        (f"{NAME}.json", json.dumps(numbers, indent=1, allow_nan=False)),
        (f"{NAME}.md", markdown),
        (f"{NAME}.html", page(TITLE, sections, head)),
    ):
        with replacing(folder / name) as temporary:
            temporary.write_text(content, encoding="utf-8")
    return folder / f"{NAME}.html"


def _lead(known: KnownFeatures) -> str:
    seeds = ", ".join(str(seed) for seed in sorted({r.seed for r in known.replicas}))
    scores = ", ".join(dict.fromkeys(r.score for r in known.replicas))
    return (
        f"{len(known.replicas)} replicas: regimes {', '.join(known.regimes)}; seeds {seeds}; cores selected by the "
        f"score '{scores}'. The worlds are made, so that it is known which features matter to the loss, and how much."
    )
