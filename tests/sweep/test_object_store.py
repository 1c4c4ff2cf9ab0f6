"""A sweep whose output is a bucket: another machine finds what the first has made."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from pyarrow import fs

from dmsae_ray.distill.core import load_core
from tests.s3_server import s3_server
from tests.sweep.conftest import environment, sweep_folder, write_config

pytest.importorskip("moto.server", reason="needs moto[server]")

KEYS = {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "not-so-secret", "AWS_EC2_METADATA_DISABLED": "true"}


def test_a_sweep_into_a_bucket(finished_sweep: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in KEYS.items():
        monkeypatch.setenv(name, value)

    def machine(name: str) -> str:
        """Run the sweep on a machine that has nothing yet; what it printed."""
        here = tmp_path / name
        here.mkdir()
        done = subprocess.run(
            [sys.executable, "-m", "dmsae_ray.cli", "distill", str(config)],
            cwd=here,
            env={**environment(), "DMSAE_CACHE": str(here / "cache")},
            capture_output=True,
            text=True,
            timeout=400,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    with s3_server() as options:
        uri = f"s3://runs/team?{options}"
        system, _ = fs.FileSystem.from_uri(uri)
        system.create_dir("runs/team")
        config = write_config(tmp_path, output=uri, name="small", distill={"coverage": 0.3})
        machine("first")
        found = [info.path for info in system.get_file_info(fs.FileSelector("runs/team", recursive=True))]
        assert sum(path.endswith("outcome.json") for path in found) == 4
        assert any(path.endswith("trials/k8-tau0.3-seed0/summary.json") for path in found)
        assert any("k8-tau0.3-seed0/checkpoint" in path for path in found)
        printed = machine("second")
        assert "all 1 trials are finished" in printed
        # A third machine has another sweep, which shares its cycles with the first.
        config = write_config(tmp_path, output=uri, name="small-again", distill={"coverage": 0.3})
        assert machine("third").count("[found]") == 4

    assert (tmp_path / "first" / "dmsae-runs" / "mlflow.db").is_file()
    assert [path.name for path in (tmp_path / "first").iterdir() if path.name.startswith("s3")] == []
    summaries = list(tmp_path.glob("*/dmsae-runs/sweeps/small-*/trials/*/summary.json"))
    assert len(summaries) == 3
    for summary in summaries:
        assert json.loads(summary.read_text())["core_sizes"][0] > 0
        assert "not-so-secret" not in (summary.parents[2] / "config.yaml").read_text()
        here = load_core(summary.parent / "core.safetensors").rows
        assert here.equal(
            load_core(sweep_folder(finished_sweep) / "trials" / summary.parent.name / "core.safetensors").rows
        )
