"""An experiment from Python."""

import json
import math
import shutil
from pathlib import Path
from typing import Any

import pytest

import dmsae_ray
from dmsae_ray.config import load_experiment
from dmsae_ray.errors import ConfigError
from dmsae_ray.results import frame, load_results
from tests.small_sweep import TRIALS, sweep_folder, write_config


def test_a_sweep_is_a_data_frame(
    finished_sweep: Path, tmp_path: Path, ray_cluster: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The sweep is finished already, so that nothing runs: the frame is of what is there."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    shutil.copytree(finished_sweep / "runs", tmp_path / "runs")
    monkeypatch.chdir(tmp_path)
    found = dmsae_ray.run(write_config(tmp_path))
    assert found.attrs["folder"] == str(sweep_folder(tmp_path))
    assert len(found) == 2 * (3 + 1) and set(found.trial) == set(TRIALS)  # three cycles and a control
    for trial in TRIALS:
        summary = json.loads((sweep_folder(tmp_path) / "trials" / trial / "summary.json").read_text())
        for record in summary["records"]:
            (row,) = found[(found.trial == trial) & (found.cycle == record["cycle"]) & (found.arm == "distilled")].iloc
            assert (row.key, row.n_core, row.l0) == (record["key"], record["n_core"], record["metrics"]["l0"])
            assert (row.k, row.seed) == (8, 0) and row.coverage == summary["params"]["coverage"]
            assert math.isnan(row.carryover) if record["cycle"] == 0 else row.carryover == record["carryover"]
    control = found[found.arm == "gaussian"]
    assert list(control.cycle) == [2, 2] and control.collapsed_by.isna().all()
    assert found.equals(frame(load_results(found.attrs["folder"])))


def test_overrides_are_of_a_file(tmp_path: Path) -> None:
    experiment = load_experiment(write_config(tmp_path))
    with pytest.raises(ConfigError, match=r"^overrides and preset are of a file"):
        dmsae_ray.run(experiment, overrides=["sae.k=4"])
    with pytest.raises(ConfigError, match=r"^sae\.kk is not a setting; did you mean 'sae\.k'"):
        dmsae_ray.run(write_config(tmp_path), overrides=["sae.kk=4"])
    with pytest.raises(AttributeError, match="has no attribute 'walk'"):
        _ = dmsae_ray.walk
