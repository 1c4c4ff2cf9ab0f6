"""Trials that a scheduler of Ray Tune stops: they end, are called stopped, and go on when nothing stops them."""

import json
import shutil
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
from mlflow import MlflowClient
from ray.tune.schedulers import FIFOScheduler

import dmsae_ray
from dmsae_ray.cli import main
from dmsae_ray.errors import DataError
from dmsae_ray.files import Folder
from dmsae_ray.results import Steered
from dmsae_ray.results.steered import STEERED_FILE, grouped
from tests.small_sweep import TRIALS, sweep_folder, write_config

NEW = ["k2-tau0.3-seed0", "k2-tau0.6-seed0"]


class StopsPoorFits(FIFOScheduler):
    """Stop what has a cycle whose SAE explains little."""

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        return self.STOP if result.get("fvu", 0.0) > 0.45 else self.CONTINUE


@pytest.mark.sweep
def test_a_stopped_trial_ends_is_called_stopped_and_may_go_on(
    finished_sweep: Path,
    tmp_path: Path,
    ray_cluster: Any,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    of_other_tests = _of_trials()  # of the session that they share
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    shutil.copytree(finished_sweep / "runs", tmp_path / "runs")
    monkeypatch.chdir(tmp_path)
    config = write_config(tmp_path, sweep={"k": [8, 2]})
    found = dmsae_ray.run(config, scheduler=StopsPoorFits())  # type: ignore[no-untyped-call]
    folder = sweep_folder(tmp_path)
    assert set(found.trial) == set(TRIALS)
    said = capsys.readouterr().out
    for name in NEW:
        assert f"  {name}: StopsPoorFits stopped it after cycle 0 at 25,600 tokens" in said
    assert "2 trials without a result, as was asked for:" in said and "unfinished" not in said.lower()
    _no_workers_are_left(of_other_tests)
    assert not list((folder / "train").rglob("checkpoint_*"))

    # What it is called: in the record, the status, the report and MLflow.
    record = json.loads((folder / STEERED_FILE).read_text())
    assert set(record["stopped"]) == set(NEW) and record["searcher"] is None
    numbers = record["stopped"][NEW[0]]["numbers"]
    assert (numbers["cycle"], numbers["tokens"]) == (0, 25_600) and numbers["fvu"] > 0.45
    assert main(["status", str(folder)]) == 0
    status = capsys.readouterr().out
    assert "2 of 4 trials finished, 2 stopped" in status and ": finished;" in status.splitlines()[0]
    report = (folder / "report.md").read_text()
    assert "Stopped trials, in their last finished cycle" in report and "what is left is no random sample" in report
    runs = _runs(tmp_path)
    assert all(runs[name].info.status == "KILLED" for name in NEW)
    assert runs[NEW[0]].data.tags["dmsae.stopped"].startswith("StopsPoorFits stopped it after cycle 0")
    assert not [name for name, run in runs.items() if run.info.status == "RUNNING"]

    # Nothing is run again with a scheduler; without one they go on, from the cycle that is there.
    assert dmsae_ray.run(config, scheduler=StopsPoorFits()).equals(found)  # type: ignore[no-untyped-call]
    assert "2 trials are finished, 2 are not to run: nothing to run" in capsys.readouterr().out
    whole = dmsae_ray.run(config)
    said = capsys.readouterr().out
    assert "2 trials that had been stopped or not been asked for may run" in said
    assert "k2-tau0.3-seed0        cycle 0           " in said and "[found]" in said
    assert set(whole.trial) == {*TRIALS, *NEW} and not (folder / STEERED_FILE).exists()
    assert {run.info.status for run in _runs(tmp_path).values()} == {"FINISHED"}
    assert not [name for name, run in _runs(tmp_path).items() if "dmsae.stopped" in run.data.tags]


def _runs(folder: Path) -> dict[str, Any]:
    client = MlflowClient(f"sqlite:///{folder / 'runs' / 'mlflow.db'}")
    (experiment,) = [one for one in client.search_experiments() if one.name == "small"]
    return {str(run.info.run_name): run for run in client.search_runs([experiment.experiment_id])}


def _no_workers_are_left(but: set[psutil.Process]) -> None:
    """Ray's session goes on, but without the processes of these trials; Ray gives an actor 30 s to end by itself."""
    until = time.monotonic() + 120
    while left := _of_trials() - but:
        assert time.monotonic() < until, left
        time.sleep(0.5)


def _of_trials() -> set[psutil.Process]:
    return {p for p in psutil.Process().children(recursive=True) if _is_of_a_trial(p)}


def _is_of_a_trial(process: psutil.Process) -> bool:
    try:
        title = " ".join(process.cmdline())
    except psutil.Error:
        return False
    return title.startswith(("ray::RayTrainWorker", "ray::TrainController", "ray::ImplicitFunc"))


def test_a_record_is_read_as_it_was_written_and_says_why(tmp_path: Path) -> None:
    place = Folder(str(tmp_path))
    assert Steered.read(place) == Steered() and Steered().reasons(["a"]) == {}
    tree = {
        "stopped": {"a": {"reason": "too slow", "numbers": {"fvu": 0.5}}},
        "searcher": "Some",
        "asked": ["a", "b"],
        "room": 0,
    }
    (tmp_path / STEERED_FILE).write_text(json.dumps(tree))
    record = Steered.read(place)
    reasons = record.reasons(["a", "b", "c", "d"])
    assert reasons == {"a": "too slow", "c": "Some did not ask for it", "d": "Some did not ask for it"}
    assert grouped(reasons) == ["a: too slow", "2 trials: Some did not ask for it"]
    record.go_on(["b"], stops=True, searcher="Other", samples=3)
    assert record.asked == ["a", "b"] and record.searcher == "Other" and record.stopped.keys() == {"a"}
    assert record.room == 1 and record.reasons(["a", "b", "c", "d"]) == {
        "a": "too slow"
    }  # c or d may still be asked for
    record.go_on(["b"], stops=False, searcher=None)
    assert record == Steered()
    record.go_on(["b"], stops=False, searcher="Some", samples=1)
    assert record.asked == ["b"] and record.room == 0


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"stopped": 3, "searcher": null, "asked": []}'])
def test_a_damaged_record_is_one_line(tmp_path: Path, content: str) -> None:
    (tmp_path / STEERED_FILE).write_text(content)
    with pytest.raises(DataError, match=rf"{STEERED_FILE} is damaged; delete it to let all trials go on$"):
        Steered.read(Folder(str(tmp_path)))
