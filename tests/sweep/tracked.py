"""What MLflow must have of a small sweep, whatever happened while it ran."""

import json
import sqlite3
from collections.abc import Sequence
from pathlib import Path

from tests.small_sweep import sweep_folder


def check_tracking(database: Path, folder: Path, trials: Sequence[str]) -> None:
    """MLflow has one run a trial, finished, and each value of a metric at a step once.

    Args:
        database: MLflow's database.
        folder: the test's folder, with the sweep's output.
        trials: all that were run.
    """
    with sqlite3.connect(database) as opened:
        runs = dict(opened.execute("select name, status from runs where lifecycle_stage = 'active'").fetchall())
        rows = opened.execute(
            "select runs.name, key, step, count(*) from metrics join runs using (run_uuid) group by 1, 2, 3"
        ).fetchall()
    assert {name: runs.get(name) for name in trials} == dict.fromkeys(trials, "FINISHED")
    twice = [row for row in rows if row[3] != 1]
    assert rows and twice == [], twice[:10]
    for trial in trials:
        cycles = {step for name, key, step, _ in rows if name == trial and key == "core_size"}
        summary = json.loads((sweep_folder(folder) / "trials" / trial / "summary.json").read_text())
        assert cycles == set(range(len(summary["records"])))
