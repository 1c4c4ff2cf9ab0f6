"""Reports and checkpoints of a trial through a real Ray Train run: nothing waits, and an upload that fails is noted."""

import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

import pytest
import ray.train
from ray.train.torch import TorchTrainer

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
