"""What other scores say of a selection: mean_square, exact ablation where it was measured, and cycle 0's own."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from dmsae_ray.plan import CycleSetting, Setting
from dmsae_ray.report.aggregate import Aggregate
from dmsae_ray.report.estimates import Estimate, estimate
from dmsae_ray.report.score_page import SCORES_FILE
from dmsae_ray.report.tables import Table, behind_n, setting_columns, setting_texts, with_remarks
from dmsae_ray.results import TrialResult

Place = tuple[str, int]
"""Label of a setting, and a cycle."""
Measured = Mapping[Place, Mapping[int, float]]
"""The overlap by seed."""


def ablation_overlaps(sweep_dir: str | Path) -> dict[Place, dict[int, float]]:
    """Return how the runs' own scores agree with exact ablation, as `dmsae score` left it; empty where it did not run.

    A file that is damaged or of another version counts as none: the report can do without.
    """
    found: dict[Place, dict[int, float]] = {}
    try:
        for row in json.loads((Path(sweep_dir) / SCORES_FILE).read_text(encoding="utf-8"))["overlaps"]:
            seeds = found.setdefault((str(row["setting"]), int(row["cycle"])), {})
            seeds[int(row["seed"])] = float(row["overlap"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}
    return found


def other_scores_table(
    aggregates: Sequence[Aggregate[CycleSetting]],
    replicas: Mapping[Setting, Sequence[TrialResult]],
    measured: Measured,
    last_cycle: int | None,
) -> Table:
    """Tabulate how the last selection agrees with other scores, and C* with as many of cycle 0's best.

    All are overlaps at equal size. The latents of C* that are in C_0 are compared with as many of C_0's best; that has
    a high chance level, of as many latents drawn from C_0. A number of fewer seeds than the row says its own n.

    Args:
        aggregates: the settings.
        replicas: the trials behind their numbers.
        measured: what `ablation_overlaps` returned.
        last_cycle: number of the last cycle.
    """
    at = {a.setting: measured.get((a.setting.label, -1 if a.cycle is None else a.cycle), {}) for a in aggregates}
    by_ablation = any(at.values())
    head: tuple[str, ...] = (*setting_columns(aggregates), "re-\ntest", "as mean\nsquare")
    head += ("as abla-\ntion",) if by_ablation else ()
    head += ("dis-\ntilled", "among the\nbest of C_0", "latents", "chance")
    rows = []
    for a in aggregates:
        trials = replicas.get(a.setting, ())
        found = [(*r.among_best, r.core_sizes[0]) for r in trials if r.among_best is not None and r.among_best[1]]
        shares = estimate((both / of for both, of, _ in found), "share")
        square = estimate((r.last.by_square for r in trials), "share")
        ablation = estimate((at[a.setting].get(r.trial.seed) for r in trials), "share")
        n = len(a.seeds)
        rows.append(
            (
                *setting_texts(a),
                a.retest.text(),
                _text(square, n),
                *((_text(ablation, n),) if by_ablation else ()),
                a.distilled_size.text(1 if a.distilled_size.n > 1 else 0),
                _text(shares, n),
                f"{sum(both for both, _, _ in found)} of {sum(of for _, of, _ in found)}" if found else "-",
                estimate((of / first for _, of, first in found), "share").text(),
            )
        )
    table = Table("What other scores say of the selection", head, tuple(rows))
    return with_remarks(table, aggregates, last_cycle, behind_n(head))


def _text(value: Estimate, n: int) -> str:
    return value.text() if value.n in (0, n) else f"{value.text()}, n = {value.n}"
