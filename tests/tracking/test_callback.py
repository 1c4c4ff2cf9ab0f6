"""Real Tune trials, recorded through the callback, and what MLflow then has of them."""

import json
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient

from dmsae_ray.distill.reports import CycleReport
from dmsae_ray.plan.trials import CycleSetting, Trial
from dmsae_ray.results.reports import TrialReport, failure_metrics
from dmsae_ray.results.trial import load_results, parse_result
from dmsae_ray.sweep.callbacks import StayingCallbacks
from dmsae_ray.tracking.callback import TrackingCallback
from dmsae_ray.tracking.names import RunName, cycle_numbers, metric_names
from dmsae_ray.tracking.tracker import DELIVERED_FILE, SweepTracker
from dmsae_ray.tracking.trial_records import TrialRecords, record_finished
from tests.mlflow_stores import history, runs
from tests.report.summaries import BATCH, CYCLES, STEPS, make_summary, make_windows, write_trial

CURVE_STEPS = [STEPS * BATCH * point // 10 for point in range(1, 11)]


def reports_of(summary: dict[str, Any]) -> list[TrialReport]:
    """What a worker reports, in its order."""
    reports: list[TrialReport] = []
    for cycle in summary["records"]:
        reports.append(TrialReport(windows=make_windows(cycle["cycle"], "distilled")))
        reports.append(TrialReport(cycles=(CycleReport(**cycle),)))
    control = CycleReport(**summary["controls"]["gaussian"])
    reports.append(TrialReport(make_windows(CYCLES, "gaussian"), (control,)))
    return reports


def test_trials_controls_and_trainings_become_runs(ray_cluster: Any, sqlite: str, tmp_path: Path) -> None:
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
            tune.report(failure_metrics("sae.k is 0"))  # as a trial that cannot go on does
            return
        (trials / name).mkdir(parents=True)
        (trials / name / "summary.json").write_text(json.dumps(summaries[name]))

    tracker = SweepTracker(sqlite, "demo", tmp_path / "sweep", "demo-1")
    tracker.start()
    space = {
        "trial_id": tune.grid_search(list(summaries)),
        "params": tune.sample_from(lambda config: params[config["trial_id"]]),
    }
    records = TrialRecords(tracker, [Trial.from_params(p) for p in params.values()], BATCH, "cycles")
    callbacks = [StayingCallbacks([TrackingCallback(records, tmp_path / "sweep")])]
    run_config = tune.RunConfig(name="tune", storage_path=str(tmp_path), verbose=0, callbacks=callbacks)
    tune.Tuner(run_trial, param_space=space, run_config=run_config).fit()
    assert tracker.close() == 0

    parents, below = runs(sqlite, "demo")
    found = {run.data.tags["dmsae.trial_id"]: run for run in below}
    names = [f"{name}{rest}" for name in summaries for rest in ("", "/gaussian", *(f"/cycle {c}" for c in range(4)))]
    assert sorted(found) == sorted(names) and len(parents) == 1 and CYCLES == 3
    good, failed = (found[name] for name in summaries)
    above = {good.info.run_id: "trial", parents[0].info.run_id: "sweep"}
    for name, run in found.items():
        if name.startswith("k4-tau0.9-seed0"):
            assert run.info.status == "FINISHED", name
            assert above[run.data.tags["mlflow.parentRunId"]] == ("trial" if "cycle" in name else "sweep")
    assert failed.info.status == "FAILED" and failed.data.tags["dmsae.failure"] == "sae.k is 0"
    assert "sae.k is 0" in failed.data.tags["mlflow.note.content"]
    assert good.data.params == {"k": "4", "coverage": "0.9", "seed": "0", "arm": "distilled"}
    assert found["k4-tau0.9-seed0/cycle 2"].data.params["cycle"] == "2"
    assert found["k4-tau0.9-seed0/gaussian"].data.params["arm"] == "gaussian"

    summary = summaries["k4-tau0.9-seed0"]
    last, control = summary["records"][-1], summary["controls"]["gaussian"]
    expected = {
        "carryover": last["carryover"],
        "core_size": last["n_core"],
        "distilled_size": summary["distilled_size"],
        "margin_gaussian": last["carryover"] - control["carryover"],
        "margin_chance": last["carryover"] - last["chance"],
        "tokens": sum(r["tokens"] for r in summary["records"]),
        **{name: last["metrics"][name] for name in ("l0_core", "l0_non_core", "l0", "fvu", "loss_recovered")},
        **{"k": 4, "coverage": 0.9, "seed": 0},
    }
    assert {name: good.data.metrics[name] for name in expected} == pytest.approx(expected, rel=1e-3)
    assert found["k4-tau0.9-seed0/gaussian"].data.metrics["carryover"] == pytest.approx(control["carryover"], rel=1e-3)
    # The last cycle is seen before the trial ends, and of one that failed.
    assert failed.data.metrics["carryover"] > 0 and "distilled_size" not in failed.data.metrics
    sizes = [r["n_core"] for r in summary["records"]]
    assert history(sqlite, good, "core_size") == list(enumerate(sizes))
    for name in ("k4-tau0.9-seed0/cycle 0", "k4-tau0.9-seed0/cycle 3", "k4-tau0.9-seed0/gaussian"):
        assert [step for step, _ in history(sqlite, found[name], "train/l0_core")] == CURVE_STEPS
    logged = {name for run in below for name in run.data.metrics}
    assert logged <= set(metric_names(["gaussian"])) and len(metric_names(["gaussian"])) <= 35


def test_trials_finished_before_a_crash_are_recorded_at_the_next_start(sqlite: str, tmp_path: Path) -> None:
    name, journals = write_trial(tmp_path / "sweep", 4, 0.9, 0), []
    for _ in range(2):
        tracker = SweepTracker(sqlite, "demo", tmp_path / "sweep", "demo-1")
        tracker.start()
        record_finished(TrialRecords(tracker, [], BATCH, "cycles"), tmp_path / "sweep")
        assert tracker.close() == 0
        journals.append((tmp_path / "sweep" / "journal.jsonl").read_text())
    assert journals[0] == journals[1], "nothing is recorded twice"
    trial, control = runs(sqlite, "demo")[1]
    assert trial.data.tags["dmsae.trial_id"] == name and control.data.tags["dmsae.trial_id"] == f"{name}/gaussian"
    assert trial.info.status == control.info.status == "FINISHED"
    assert len(history(sqlite, trial, "carryover")) == CYCLES
    files = {f.path for f in MlflowClient(sqlite).list_artifacts(trial.info.run_id)}
    assert files == {"summary.json", "core.safetensors"}
    note = trial.data.tags["mlflow.note.content"]
    assert "came back" in note and trial.data.tags["dmsae.sae"].startswith("cycles/")


def test_a_transfer_is_one_run_under_its_own_arm(sqlite: str, tmp_path: Path) -> None:
    """In a transfer the random core is the trial itself, not a control beside it."""
    tracker = SweepTracker(sqlite, "demo", tmp_path / "sweep", "demo-1")
    tracker.start()
    params = {"k": 20, "core_sparsity": "sparse", "arm": "gaussian", "seed": 0, "data_seed": 0}
    other = {**params, "core_sparsity": "dense"}
    records = TrialRecords(tracker, [Trial.from_params(p) for p in (params, other)], BATCH, "cycles")
    records.begin("t", params)
    records.report("t", params, TrialReport(windows=make_windows(1, "gaussian")))
    assert tracker.close() == 0
    (run,) = runs(sqlite, "demo")[1]
    assert run.data.params == {"k": "20", "core_sparsity": "sparse", "arm": "gaussian", "seed": "0"}
    assert [step for step, _ in history(sqlite, run, "train/loss")] == CURVE_STEPS


def test_a_trial_that_goes_on_is_no_longer_called_failed_or_stopped(sqlite: str, tmp_path: Path) -> None:
    name = write_trial(tmp_path / "sweep", 4, 0.9, 0)
    (result,) = load_results(tmp_path / "sweep")
    params, labels = result.trial.params(), ("dmsae.failure", "dmsae.stopped")

    def record(change: Callable[[TrialRecords], None]) -> dict[str, str]:
        """Each in a session of its own, delivered at its end."""
        tracker = SweepTracker(sqlite, "demo", tmp_path / "sweep", "demo-1")
        tracker.start()
        records = TrialRecords(tracker, [result.trial], BATCH, "cycles")
        records.begin(name, params)
        change(records)
        assert tracker.close() == 0
        (run,) = (r for r in runs(sqlite, "demo")[1] if r.data.tags["dmsae.trial_id"] == name)
        return {label: run.data.tags[label] for label in labels if label in run.data.tags}

    assert record(lambda r: None) == {}
    assert record(lambda r: r.fail(name, "no room")) == {"dmsae.failure": "no room"}
    assert record(lambda r: r.stop(name, "too slow")) == {"dmsae.stopped": "too slow"}
    assert record(lambda r: r.fail(name, "no room")) == {"dmsae.failure": "no room"}
    assert record(lambda r: r.finish(result)) == {}
    (tmp_path / "sweep" / DELIVERED_FILE).unlink()  # all is delivered once more: the tags are gone already
    assert record(lambda r: None) == {}


def test_run_names_are_read_back() -> None:
    for run in (RunName("a"), RunName("a", "gaussian"), RunName("a", cycle=2), RunName("a", "gaussian", 11)):
        assert RunName.of(str(run)) == run
    assert RunName("a", cycle=2).parent == "a" and RunName("a", "gaussian").parent is None


def test_numbers_of_a_cycle_are_sums_where_they_are_costs_and_absent_where_unknown() -> None:
    result = parse_result(make_summary(4, 0.9, 0))
    first, last = cycle_numbers(result.reports[0]), cycle_numbers(result.last, result.reports[:-1])
    assert "carryover" not in first and "margin_chance" not in first
    assert last["flops"] == pytest.approx(sum(r.flops for r in result.reports))
    assert all(math.isfinite(value) for value in last.values())
    assert last["fvu"] == result.last.metrics["fvu"]


def test_each_setting_has_a_colour_of_its_own(tmp_path: Path) -> None:
    trials = [Trial(CycleSetting(k, coverage, "dense"), 0, 0) for k in range(1, 8) for coverage in (0.5, 0.7, 0.9)]
    tracker = SweepTracker("sqlite:///unused.db", "demo", tmp_path / "sweep", "demo-1")
    records = TrialRecords(tracker, trials, BATCH, "cycles")
    colours = {records._colour(trial.params()) for trial in trials}
    assert len(colours) == len(trials)
    assert all(re.fullmatch("#[0-9A-F]{6}", colour) for colour in colours)
