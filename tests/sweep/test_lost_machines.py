"""Nodes of a cluster are lost while a sweep runs, from the harvest on: it ends by itself, with the same cores."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.small_sweep import environment

ROOT = Path(__file__).parents[2]


@pytest.mark.sweep
def test_lost_nodes_change_nothing(finished_sweep: Path, tmp_path: Path) -> None:
    """The seeded schedule of `disturbing`; run that program by hand for more kills, and of other kinds."""
    options = ["--trials", "2", "--nodes", "2", "--kills", "3", "--kinds", "node", "--pause", "8", "16"]
    done = subprocess.run(
        [sys.executable, "-m", "tests.sweep.disturbing", tmp_path / "run", "--undisturbed", finished_sweep, *options],
        cwd=ROOT,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=390,
    )
    said = (tmp_path / "run" / "output.txt").read_text()
    assert done.returncode == 0, done.stdout + done.stderr + said
    assert done.stdout.count("killed a node") == 3
    lost = [line for line in said.splitlines() if "a machine was lost" in line]
    assert 1 <= len(lost) <= 3
    # Nothing of what Ray's raylets log about it.
    assert "raylet" not in said and "state-dump" not in said and len(said.splitlines()) < 60
