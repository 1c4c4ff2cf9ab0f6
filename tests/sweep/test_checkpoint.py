"""Folders of checkpoints on a worker's disk: what a killed worker left is removed, what another one writes is not."""

import os
import platform
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from dmsae_ray.sweep.checkpoint import new_checkpoint_folder
from tests.small_sweep import environment

WRITES = """
import time
from dmsae_ray.sweep.checkpoint import new_checkpoint_folder
folder = new_checkpoint_folder()
(folder / "training.pt").write_bytes(b"half")
print(folder, flush=True)
time.sleep(600)
"""


def test_what_a_killed_worker_left_is_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    command = [sys.executable, "-c", WRITES]
    workers = [
        subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment(TMPDIR=str(tmp_path)))
        for _ in range(2)
    ]
    try:
        killed, lives = (Path(worker.stdout.readline().strip()) for worker in workers if worker.stdout is not None)
        workers[0].send_signal(signal.SIGKILL)
        workers[0].wait()
        dead, here = workers[0].pid, platform.node()
        # The second is of a machine whose name begins with that of this one.
        others = [
            tmp_path / f"dmsae-checkpoint-{name}" for name in (f"elsewhere-{dead}-x", f"{here}-{dead}-1-x", "old")
        ]
        for other in others:
            other.mkdir()
        own = new_checkpoint_folder()
        assert sorted(tmp_path.iterdir()) == sorted([own, lives, *others]) and not killed.exists()
        assert own.name.startswith(f"dmsae-checkpoint-{platform.node()}-{os.getpid()}-")
        assert new_checkpoint_folder() != own and own.exists()
    finally:
        for worker in workers:
            worker.kill()
            worker.wait()
            if worker.stdout is not None:
                worker.stdout.close()
