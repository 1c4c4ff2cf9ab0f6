"""What other scores say of a selection: mean_square, exact ablation where it was measured, and cycle 0's own."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from dmsae_ray.plan import CycleSetting, Setting
from dmsae_ray.report.aggregate import Aggregate
from dmsae_ray.report.estimates import estimate
from dmsae_ray.report.score_page import SCORES_FILE
from dmsae_ray.report.tables import Table, behind_n, setting_columns, setting_texts, with_remarks
from dmsae_ray.results import TrialResult

Place = tuple[str, int]
"""Label of a setting, and a cycle."""
Measured = Mapping[Place, tuple[int, str]]
"""Number of seeds, and the overlap as text."""


def ablation_overlaps(sweep_dir: str | Path) -> dict[Place, tuple[int, str]]:
    """Return how the runs' own scores agree with exact ablation, as `dmsae score` left it; empty where it did not run.

    A file that is damaged or of another version counts as none: the report can do without.
    """
    try:
        tree = json.loads((Path(sweep_dir) / SCORES_FILE).read_text(encoding="utf-8"))
        rows = [(row["setting"].partition(" (and ")[0], row) for row in tree["rows"] if "overlap" in row]
        known = [(label, row) for label, row in rows if row["score"] == tree["own"].get(label)]
        return {(label, int(row["cycle"])): (int(row["n"]), str(row["overlap"])) for label, row in known}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}


def other_scores_table(
    aggregates: Sequence[Aggregate[CycleSetting]],
    replicas: Mapping[Setting, Sequence[TrialResult]],
    measured: Measured,
    last_cycle: int | None,
) -> Table:
    """Tabulate how the last selection agrees with other scores, and C* with as many of cycle 0's best.

    All are overlaps at equal size. C* is a part of C_0, so that its overlap with the best of C_0 has a high chance
    level: that of as many latents drawn from C_0.

    Args:
        aggregates: the settings.
        replicas: the trials behind their numbers.
        measured: what `ablation_overlaps` returned.
        last_cycle: number of the last cycle.
    """
    cells = {a.setting: measured.get((a.setting.label, -1 if a.cycle is None else a.cycle)) for a in aggregates}
    by_ablation = any(cells.values())
    head: tuple[str, ...] = (*setting_columns(aggregates), "re-\ntest", "as mean\nsquare")
    head += ("as abla-\ntion",) if by_ablation else ()
    head += ("dis-\ntilled", "among the\nbest of C_0", "latents", "chance")
    rows = []
    for a in aggregates:
        found = [r for r in replicas.get(a.setting, ()) if r.among_best is not None and r.distilled_size]
        pairs = [(r.among_best or 0, r.distilled_size or 0, r.core_sizes[0]) for r in found]
        n, text = cells[a.setting] or (0, "-")
        ablation = text if n in (0, len(a.seeds)) else f"{text}, n = {n}"
        rows.append(
            (
                *setting_texts(a),
                a.retest.text(),
                estimate((r.last.by_square for r in replicas.get(a.setting, ())), "share").text(),
                *((ablation,) if by_ablation else ()),
                a.distilled_size.text(1 if a.distilled_size.n > 1 else 0),
                estimate((both / of for both, of, _ in pairs), "share").text(),
                f"{sum(both for both, _, _ in pairs)} of {sum(of for _, of, _ in pairs)}" if pairs else "-",
                estimate((of / first for _, of, first in pairs), "share").text(),
            )
        )
    table = Table("What other scores say of the selection", head, tuple(rows))
    return with_remarks(table, aggregates, last_cycle, behind_n(head))
