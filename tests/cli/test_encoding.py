"""A command's output in an encoding that lacks our characters: plainer, whole, and in shape."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from dmsae_ray.config.experiment import load_experiment
from tests.small_sweep import environment, write_config

OLD = Path(__file__).parents[1] / "results" / "finished_by_0_1_0"


@pytest.mark.parametrize(
    "setting",
    [
        {"PYTHONIOENCODING": "latin-1"},
        {"PYTHONIOENCODING": "cp1252"},
        {"PYTHONIOENCODING": "ascii"},
        {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
    ],
    ids=["latin-1", "cp1252", "ascii", "C"],
)
def test_a_report_is_shown_in_any_encoding(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, setting: dict[str, str]
) -> None:
    """The Markdown file is UTF-8 all the same; a notebook's backend of matplotlib hinders nothing either."""
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "runs" / "sweeps" / "small-57763463"
    shutil.copytree(OLD, folder)
    (folder / "config.yaml").write_text(load_experiment(write_config(tmp_path)).to_yaml(), encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-m", "dmsae_ray.cli", "report", str(folder)],
        env=environment(MPLBACKEND="module://matplotlib_inline.backend_inline", **setting),
        capture_output=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr.decode("utf-8", "replace")
    said = done.stdout.decode("latin-1")
    assert "carry" in said and "Traceback" not in done.stderr.decode("latin-1")
    if setting.get("PYTHONIOENCODING") == "ascii":
        rows = [line for line in said.splitlines() if line.count("|") == 10]
        assert len(rows) >= 4 and len({len(row) for row in rows}) == 1 and any("|  t|" in row for row in rows)
    assert "| τ |" in (folder / "report.md").read_text(encoding="utf-8")
    assert len(list((folder / "figures").glob("*.png"))) >= 3
