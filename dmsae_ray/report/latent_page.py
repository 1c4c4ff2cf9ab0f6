"""The section of a page that lists latents; each opens a page of its own, built by the script in latents.js.

All that comes from data is JSON in the document, which the script shows as text and never as markup.
"""

import json
import math
from collections.abc import Iterable, Sequence
from html import escape
from importlib.resources import files
from pathlib import Path
from typing import Any

from dmsae_ray.errors import ConfigError
from dmsae_ray.evaluation import LatentFiring, Snippet
from dmsae_ray.files import replacing
from dmsae_ray.report.core_latents import sweep_latents
from dmsae_ray.report.latent_study import Wanted
from dmsae_ray.report.latent_table import LatentRow, LatentTable, Progress, no_progress
from dmsae_ray.report.page import Section, page
from dmsae_ray.report.visible_text import visible

_DIGITS = 4
_NO_ACTIVATION = -1
"""Stands for a token that a filter left out."""


def latent_sections(
    sweep_dir: str | Path,
    *,
    most: int = 300,
    wanted: Wanted | None = None,
    store: str | None = None,
    progress: Progress = no_progress,
) -> list[Section]:
    """Return the section 'The core, latent by latent' of a sweep's report; what it lacks is said in it.

    Args:
        sweep_dir: the sweep's folder.
        most: latents that get a page; 300 are about 3 MB.
        wanted: how much a page shows; by default from what is on this machine: no model is downloaded for a report.
        store: the store of activations, if not the one noted with the SAEs.
        progress: told how far it is.

    Raises:
        DataError: no trial that selects cores is finished, or a summary cannot be read.
    """
    shown = wanted or Wanted(local_only=True)
    table = sweep_latents(sweep_dir, most=most, store=store, wanted=shown, progress=progress)
    return [latents_section(table)]


def write_latents(table: LatentTable, out: str | Path) -> Path:
    """Write a page of its own with the latents of a table; it appears whole or not at all.

    Raises:
        ConfigError: the file cannot be written.
    """
    path = Path(out).expanduser().absolute()
    text = page(table.title, [latents_section(table)])
    try:
        with replacing(path) as temporary:
            temporary.write_text(text, encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"--out is '{out}'; it cannot be written ({error.strerror or error})") from None
    return path


def latents_section(table: LatentTable) -> Section:
    """Return the section of a page that shows a table of latents and their pages."""
    about = "".join(f"<li>{escape(visible(line))}</li>" for line in table.about)
    lacks = "".join(f"<li>{escape(visible(line))}</li>" for line in table.lacks)
    parts = [
        f'<ul class="latents-about soft">{about}</ul>' if about else "",
        f'<ul class="latents-lacks">{lacks}</ul>' if lacks else "",
        '<noscript><p class="latents-lacks">The table is made by a script; this viewer runs none.</p></noscript>',
        '<div id="latents-app"></div>',
        f'<script type="application/json" id="latents-data">{embedded(payload(table))}</script>',
    ]
    source = files("dmsae_ray.report")
    return Section(
        anchor="latents",
        title="The core, latent by latent" if table.of_sweep else "Latents",
        body="\n".join(part for part in parts if part),
        style=(source / "latents.css").read_text(encoding="utf-8"),
        script=(source / "latents.js").read_text(encoding="utf-8"),
    )


def embedded(tree: Any) -> str:
    """Return JSON that may stand in a script element: nothing in it ends the element or opens a comment."""
    text = json.dumps(tree, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


class _Texts:
    """Distinct texts as a reader sees them, by number: a token that occurs often is written once."""

    def __init__(self) -> None:
        self.numbers: dict[str, int] = {}
        self._known: dict[str, int] = {}

    def __call__(self, text: str) -> int:
        if text not in self._known:
            self._known[text] = self.numbers.setdefault(visible(text), len(self.numbers))
        return self._known[text]


def payload(table: LatentTable) -> dict[str, Any]:
    """Return what the script shows, JSON-serialisable."""
    texts = _Texts()
    rows = [_row(row, table, texts) for row in table.rows]
    return {
        "sweep": table.of_sweep,
        "cycles": max((len(row.scores) for row in table.rows), default=0),
        "seeds": max((len(row.nearest) for row in table.rows), default=0),
        "rows": rows,
        "texts": list(texts.numbers),
    }


def _row(row: LatentRow, table: LatentTable, texts: _Texts) -> dict[str, Any]:
    tree: dict[str, Any] = {
        "id": row.anchor,
        "name": row.name,
        "latent": row.latent,
        "part": row.part,
        "scores": [_number(score) for score in row.scores],
        "frequency": _number(row.frequency),
    }
    if table.of_sweep:
        tree |= {
            "trial": row.trial,
            "setting": row.setting,
            "seed": row.seed,
            "distilled": row.distilled,
            "born": row.born,
            "survived": row.survived,
            "nearest": [[near.anchor, near.trial, _number(near.cosine)] for near in row.nearest],
        }
    if row.firing is not None:
        tree["firing"] = _firing(row.firing, table, texts)
    if table.text is not None and row.promoted:
        one = table.text.one
        for name, pairs in (("promoted", row.promoted), ("suppressed", row.suppressed)):
            tree[name] = [[texts(one(token)), _number(change)] for token, change in pairs]
    return tree


def _firing(firing: LatentFiring, table: LatentTable, texts: _Texts) -> dict[str, Any]:
    return {
        "fired": firing.fired,
        "tokens": firing.tokens,
        "maximum": _number(firing.maximum),
        "mean": _number(firing.mean),
        "width": firing.bin_width,
        "histogram": firing.histogram.tolist(),
        "top": _snippets(firing.top, table, texts),
        "ranges": [[q.low, q.high, _snippets(q.snippets, table, texts)] for q in firing.quantiles],
    }


def _snippets(snippets: Iterable[Snippet], table: LatentTable, texts: _Texts) -> list[list[Any]]:
    found = []
    for one in snippets:
        tokens: Sequence[int] = one.tokens.tolist()
        words = [f"[{token}]" for token in tokens] if table.text is None else table.text.several(tokens)
        values = [_NO_ACTIVATION if math.isnan(a) else _number(a) for a in one.activations.tolist()]
        found.append([one.context, one.start, one.peak, [texts(word) for word in words], values])
    return found


def _number(value: float | None) -> float | int | None:
    if value is None or not math.isfinite(value):
        return None
    rounded = float(f"{value:.{_DIGITS}g}")
    return int(rounded) if rounded == int(rounded) else rounded
