"""Reports and checkpoints of a trial through a real Ray Train run: nothing waits, and an upload that fails is noted."""

import shutil
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import ray.train
from ray.train.torch import TorchTrainer

from dmsae_ray.distill.core import empty_core
from dmsae_ray.distill.reports import DISTILLED, WindowReport
from dmsae_ray.results.reports import TrialReport, known_in
from dmsae_ray.sweep import worker
from dmsae_ray.sweep.worker import Reporter
from tests.report.summaries import make_cycle


def test_uploads_go_on_beside_the_training_and_one_that_fails_is_told(ray_cluster: Any, tmp_path: Path) -> None:
    def loop(config: dict[str, str]) -> None:
        notes = Path(config["notes"])

        def checkpoint() -> Path:
            folder = Path(tempfile.mkdtemp())
            (folder / "training.pt").write_bytes(b"\0" * 1000)
            reporter.send(ray.train.Checkpoint.from_directory(folder))
            return folder

        def wait_for(name: str) -> None:
            until = time.monotonic() + 120
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


def test_numbers_for_schedulers_are_of_one_moment(monkeypatch: pytest.MonkeyPatch) -> None:
    """A cycle's numbers go with its own number and tokens, whether it was trained or found; controls have none."""
    sent: list[dict[str, Any]] = []
    monkeypatch.setattr(worker.ray.train, "report", lambda metrics, **_: sent.append(dict(metrics)))
    reporter = worker.Reporter(1, lambda: None, lambda error: None)
    none = empty_core(8)

    def cycle(number: int, arm: str = DISTILLED, fvu: float = 0.5, **changes: Any) -> None:
        report = make_cycle(number, arm, none, none, 0.3, (0.0, 4.0))
        reporter.cycle(replace(report, metrics={**report.metrics, "fvu": fvu}, **changes))

    def window(number: int, tokens: int, arm: str = DISTILLED, *, cached: bool = False) -> None:
        reporter.window(WindowReport(number, arm, 1, tokens, {"loss": 1.0 / tokens}, cached=cached))

    window(0, 100)
    cycle(0, fvu=0.5)
    window(1, 150)
    window(1, 200, cached=True)  # cycle 1 is found from here on
    cycle(1, fvu=0.25, cached=True)
    window(1, 300, "gaussian")
    cycle(1, "gaussian", fvu=0.75)
    cycle(2, collapsed="all_scores_zero")
    flat = [{k: v for k, v in one.items() if k in ("tokens", "cycle", "fvu")} for one in sent]
    assert flat == [
        {"tokens": 100},
        {"tokens": 100, "cycle": 0, "fvu": 0.5},
        {"tokens": 150},
        {"tokens": 200, "cycle": 1, "fvu": 0.25},
        {},
        {},
        {"tokens": 200, "cycle": 2},
    ]
    known = [known_in(one) for one in sent]
    assert known[-2]["fvu"] == 0.25 and (known[-2]["cycle"], known[-2]["tokens"]) == (1, 200)
    assert known[-1].keys() == {"tokens", "loss", "cycle"} and known[-1]["cycle"] == 2
