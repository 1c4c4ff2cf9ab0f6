"""Real Tune trials, logged through the callback."""

import json
from pathlib import Path
from typing import Any

import pytest

from dmsae_ray.distill.reports import CycleReport
from dmsae_ray.results.reports import TrialReport
from dmsae_ray.tracking.callback import TrackingCallback, log_finished, log_report
from dmsae_ray.tracking.tracker import SweepTracker
from tests.mlflow_stores import history, runs
from tests.report.summaries import CYCLES, make_summary, make_windows, write_trial


def reports_of(summary: dict[str, Any]) -> list[TrialReport]:
    """What a worker reports, in its order."""
    reports: list[TrialReport] = []
    for cycle in summary["records"]:
        reports.append(TrialReport(windows=make_windows(cycle["cycle"], "distilled")))
        reports.append(TrialReport(cycles=(CycleReport(**cycle),)))
    control = CycleReport(**summary["controls"]["gaussian"])
    reports.append(TrialReport(make_windows(CYCLES, "gaussian"), (control,)))
    return reports


def test_tune_trials_become_child_runs(ray_cluster: Any, sqlite: str, tmp_path: Path) -> None:
    from ray import tune

    summaries = {f"k4-tau0.9-seed{seed}": make_summary(4, 0.9, seed) for seed in range(2)}
    reports = {name: reports_of(summary) for name, summary in summaries.items()}
    params = {name: summary["params"] for name, summary in summaries.items()}
    trials = tmp_path / "sweep" / "trials"

    def run_trial(config: dict[str, Any]) -> None:
        name = config["trial_id"]
        for report in reports[name]:
            tune.report(report.to_metrics())
        if config["params"]["seed"] == 1:
            raise RuntimeError("this one fails")
        (trials / name).mkdir(parents=True)
        (trials / name / "summary.json").write_text(json.dumps(summaries[name]))

    tracker = SweepTracker(sqlite, "demo", tmp_path / "sweep", "demo-1")
    tracker.start()
    space = {
        "trial_id": tune.grid_search(list(summaries)),
        "params": tune.sample_from(lambda config: params[config["trial_id"]]),
    }
    callbacks = [TrackingCallback(tracker)]
    run_config = tune.RunConfig(name="tune", storage_path=str(tmp_path), verbose=0, callbacks=callbacks)
    tune.Tuner(run_trial, param_space=space, run_config=run_config).fit()
    assert tracker.close() == 0

    parents, children = runs(sqlite, "demo")
    assert len(parents) == 1 and [c.info.status for c in children] == ["FINISHED", "FAILED"]
    good, failed = children
    assert good.data.params == {"k": "4", "coverage": "0.9", "seed": "0", "data_seed": "0", "core_sparsity": "dense"}
    summary = summaries["k4-tau0.9-seed0"]
    last = summary["records"][-1]
    expected = {
        "carryover": last["carryover"],
        "core_size": last["n_core"],
        "distilled_size": summary["distilled_size"],
        "carryover_gaussian": summary["controls"]["gaussian"]["carryover"],
        **{name: last["metrics"][name] for name in ("l0_core", "l0_non_core", "l0", "fvu", "loss_recovered")},
    }
    assert {name: good.data.metrics[name] for name in expected} == pytest.approx(expected)
    assert "carryover" not in failed.data.metrics and "cycle/carryover" in failed.data.metrics
    sizes = [r["n_core"] for r in summary["records"]]
    assert history(sqlite, good, "cycle/n_core") == list(enumerate(sizes))
    tokens = [w.tokens for c in range(CYCLES + 1) for w in make_windows(c, "distilled")]
    assert [step for step, _ in history(sqlite, good, "train/loss")] == tokens
    assert [step for step, _ in history(sqlite, good, "train/gaussian/l0_core")] == tokens[-10:]


def test_trials_finished_before_a_crash_are_logged_at_the_next_start(sqlite: str, tmp_path: Path) -> None:
    name = write_trial(tmp_path / "sweep", 4, 0.9, 0)
    for _ in range(2):
        tracker = SweepTracker(sqlite, "demo", tmp_path / "sweep", "demo-1")
        tracker.start()
        log_finished(tracker, tmp_path / "sweep")
        assert tracker.close() == 0
    (child,) = runs(sqlite, "demo")[1]
    assert child.data.tags["dmsae.trial_id"] == name and child.info.status == "FINISHED"
    assert len(history(sqlite, child, "carryover")) == 1 and child.data.params["data_seed"] == "0"


def test_the_trials_own_arm_has_plain_names(sqlite: str, tmp_path: Path) -> None:
    """In a transfer the random core is the trial itself, not a control beside it."""
    tracker = SweepTracker(sqlite, "demo", tmp_path / "sweep", "demo-1")
    tracker.start()
    tracker.trial("t", {"arm": "gaussian"})
    log_report(tracker, "t", {"arm": "gaussian"}, TrialReport(windows=make_windows(1, "gaussian")))
    assert tracker.close() == 0
    assert set(runs(sqlite, "demo")[1][0].data.metrics) == {
        f"train/{name}" for name in ("loss", "l0_core", "l0_non_core", "prefix_mse_0")
    }
