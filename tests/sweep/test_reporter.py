"""Reports and checkpoints of a trial through a real Ray Train run: nothing waits, and an upload that fails is noted."""

import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

import pytest
import ray.train
from ray.train.torch import TorchTrainer

from dmsae_ray.distill.reports import WindowReport
from dmsae_ray.results.reports import TrialReport
from dmsae_ray.sweep import worker
from dmsae_ray.sweep.worker import Reporter


def test_uploads_go_on_beside_the_training_and_one_that_fails_is_told(ray_cluster: Any, tmp_path: Path) -> None:
    def loop(config: dict[str, str]) -> None:
        notes = Path(config["notes"])

        def checkpoint() -> Path:
            folder = Path(tempfile.mkdtemp())
            (folder / "training.pt").write_bytes(b"\0" * 1000)
            reporter.send(ray.train.Checkpoint.from_directory(folder))
            return folder

        def wait_for(name: str) -> None:
            until = time.monotonic() + 30
            while not (notes / name).exists() and time.monotonic() < until:
                time.sleep(0.05)

        def failed(error: Exception) -> None:
            (notes / "failed").write_text(type(error).__name__)

        reporter = Reporter(5, (notes / "progress").touch, failed)
        began = time.monotonic()
        for _ in range(20):  # each would wait for the next look of Train's controller
            reporter.send()
        seconds = time.monotonic() - began
        local = checkpoint()
        wait_for("progress")
        while local.exists():
            time.sleep(0.05)
        (notes / "seconds").write_text(str(seconds))
        run = Path(ray.train.get_context().get_storage().experiment_fs_path)  # type: ignore[attr-defined]
        shutil.rmtree(run)
        run.touch()  # a file where the folder of the run was
        checkpoint()
        wait_for("failed")

    trainer: Any = TorchTrainer
    run = trainer(
        loop,
        train_loop_config={"notes": str(tmp_path)},
        scaling_config=ray.train.ScalingConfig(num_workers=1, resources_per_worker={"CPU": 1}),
        run_config=ray.train.RunConfig(name="run", storage_path=str(tmp_path / "runs")),
    )
    with pytest.raises(Exception, match="Training failed"):
        run.fit()
    assert float((tmp_path / "seconds").read_text()) < 20 * 0.25
    assert (tmp_path / "failed").read_text() in ("NotADirectoryError", "FileExistsError", "OSError", "RuntimeError")


def test_a_long_training_is_heard_of_between_its_fifths(monkeypatch: pytest.MonkeyPatch) -> None:
    """All workers send at the same steps: the clock of the first decides."""
    now = [0.0]
    sent: list[tuple[float, Any]] = []
    asked: list[bool] = []
    monkeypatch.setattr(worker.time, "monotonic", lambda: now[0])

    def agree(due: bool) -> bool:
        asked.append(due)
        return due

    reporter = worker.Reporter(10, lambda: None, lambda error: None, agree=agree)
    monkeypatch.setattr(worker.ray.train, "report", lambda metrics, **_: sent.append((now[0], metrics)))
    for step in range(1, 9):
        now[0] += 20.0
        reporter.window(WindowReport(0, "distilled", step, step, {}))
    assert [at for at, _ in sent] == [40.0, 80.0, 120.0, 160.0]
    assert [len(TrialReport.from_metrics(metrics).windows) for _, metrics in sent] == [2] * 4
    assert asked == [False, True] * 4
