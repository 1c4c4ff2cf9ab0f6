"""`dmsae sync`, against a real MLflow server that was away."""

import re
from pathlib import Path
from typing import Any

import pytest

from dmsae_ray.cli.commands import main
from dmsae_ray.config.experiment import parse_experiment
from dmsae_ray.results.folders import create_folders
from dmsae_ray.tracking.tracker import SweepTracker
from tests.mlflow_stores import Server, history, runs, server  # noqa: F401 - a fixture
from tests.small_sweep import SMALL


@pytest.mark.slow
def test_sync_delivers_what_was_kept_back_and_ends_what_was_killed(
    server: Server,  # noqa: F811
    tmp_path: Path,
    capsys: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    experiment = parse_experiment({**SMALL, "name": "synced", "output": str(tmp_path), "tracking": {"uri": server.uri}})
    folder = create_folders(experiment).sweep
    tracker = SweepTracker.of(experiment, folder)
    tracker.start()
    tracker.run("t", {"k": 1})
    assert tracker.flush(60) == 0
    server.kill()
    tracker.run("t/cycle 0", {"k": 1})
    for step in range(20):
        tracker.metrics("t/cycle 0", "train", {"train/loss": 1.0 / (step + 1)}, step)
    # The command is killed: nothing is closed. Only the lock of its file goes with it.
    assert tracker._journal is not None and tracker._sender is not None
    tracker._sender.close(0.1)
    tracker._journal.close()
    assert main(["sync", str(folder)]) == 2, "the server is away"
    server.start()
    assert main(["sync", str(folder)]) == 0
    assert f"{server.uri} has all records" in capsys.readouterr().out
    parents, below = runs(server.uri, "synced")
    assert [run.info.status for run in (*parents, *below)] == ["KILLED"] * 3
    training = next(run for run in below if run.data.tags["dmsae.kind"] == "training")
    assert len(history(server.uri, training, "train/loss")) == 20
    assert main(["sync", str(folder)]) == 0
    assert len(history(server.uri, training, "train/loss")) == 20
    assert main(["sync", str(tmp_path)]) == 2
    assert re.search(r"is no sweep folder", capsys.readouterr().err)
