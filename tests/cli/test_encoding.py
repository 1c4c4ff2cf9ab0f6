"""A command's output in an encoding that lacks our characters: plainer, whole, and in shape."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from dmsae_ray.config.experiment import load_experiment
from tests.small_sweep import environment, write_config

OLD = Path(__file__).parents[1] / "results" / "finished_by_0_1_0"


@pytest.fixture
def sweep(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of a sweep that is finished."""
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "runs" / "sweeps" / "small-57763463"
    shutil.copytree(OLD, folder)
    (folder / "config.yaml").write_text(load_experiment(write_config(tmp_path)).to_yaml(), encoding="utf-8")
    return folder


def said_by(command: str, sweep: Path, **setting: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "dmsae_ray.cli", command, str(sweep)],
        env=environment(MPLBACKEND="module://matplotlib_inline.backend_inline", **setting),
        capture_output=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr.decode("utf-8", "replace")
    assert b"Traceback" not in done.stderr
    return done.stdout.decode("latin-1")


@pytest.mark.parametrize(
    "setting",
    [
        {"PYTHONIOENCODING": "latin-1"},
        {"PYTHONIOENCODING": "cp1252"},
        {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
    ],
    ids=["latin-1", "cp1252", "C"],
)
def test_a_sweep_is_shown_in_any_encoding(sweep: Path, setting: dict[str, str]) -> None:
    said = said_by("status", sweep, **setting)
    assert "k8-tau0.3-seed0" in said and "2 of 2 trials finished" in said


def test_a_report_in_ascii_is_in_shape(sweep: Path) -> None:
    """The Markdown file is UTF-8 all the same; a notebook's backend of matplotlib hinders nothing either."""
    said = said_by("report", sweep, PYTHONIOENCODING="ascii")
    rows = [line for line in said.splitlines() if line.count("|") == 11]
    assert len(rows) >= 4 and len({len(row) for row in rows}) == 1 and any("|  t|" in row for row in rows)
    assert "| τ |" in (sweep / "report.md").read_text(encoding="utf-8")
    assert len(list((sweep / "figures").glob("*.png"))) >= 3
