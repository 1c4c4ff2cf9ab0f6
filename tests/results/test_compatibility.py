"""A sweep that version 0.1.0 finished (commit bb97501, the small sweep of these tests) is read, and not added to."""

import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

from dmsae_ray.config.experiment import load_experiment
from dmsae_ray.report.publishing import publish
from dmsae_ray.results.folders import experiment_of
from dmsae_ray.results.trial import load_results
from dmsae_ray.store import identity
from dmsae_ray.sweep.prepared import prepare_sweep, sweep_state
from tests.small_sweep import TRIALS, write_config

OLD = Path(__file__).parent / "finished_by_0_1_0"


@pytest.fixture
def output(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An output folder with the sweep in it, on the Python that it was made with."""
    monkeypatch.setattr(identity, "sys", SimpleNamespace(version_info=(3, 11, 7, "final", 0)))
    monkeypatch.chdir(tmp_path)
    folder = shutil.copytree(OLD, tmp_path / "runs" / "sweeps" / "small-57763463")
    tree = yaml.safe_load(load_experiment(write_config(tmp_path)).to_yaml())
    del tree["recipe"]["threshold"]  # which that version did not know
    (folder / "config.yaml").write_text(yaml.safe_dump(tree))
    return tmp_path / "runs"


def test_the_same_config_begins_a_sweep_of_its_own_and_says_why(output: Path, tmp_path: Path) -> None:
    """Its thresholds, losses and controls are not those of this version: nothing is added to them."""
    said: list[str] = []
    sweep = prepare_sweep(load_experiment(write_config(tmp_path)), said.append)
    assert sweep.folders.sweep.parent == output / "sweeps" and sweep.folders.name != "small-57763463"
    assert said == [
        "a sweep of its own, not 'small-57763463': results of the version that began that one mean something else"
    ]
    assert sweep_state(sweep).finished == []
    assert prepare_sweep(load_experiment(write_config(tmp_path)), said.append).folders == sweep.folders
    assert len(said) == 1


def test_it_is_still_read(output: Path) -> None:
    folder = output / "sweeps" / "small-57763463"
    assert experiment_of(folder).name == "small"
    assert sorted(result.trial_id for result in load_results(folder)) == TRIALS


def test_its_report_has_the_numbers_it_had(output: Path) -> None:
    folder = output / "sweeps" / "small-57763463"
    publish(folder)
    assert_holds(json.loads((folder / "report.json").read_text()), json.loads((OLD / "report.json").read_text()))


def assert_holds(new: Any, old: Any) -> None:
    """Whatever the old report said is in the new one, which says more.

    Version 0.1.0 wrote `arm: null` for cycles, and the half width of intervals; its single seeds had none.
    """
    if isinstance(old, dict):
        for name in set(old) - {"arm", "half_width"}:
            assert_holds(new[name], old[name])
        assert old.get("arm") is None and old.get("half_width") is None
    elif isinstance(old, list):
        assert len(new) == len(old)
        for one, other in zip(new, old, strict=True):
            assert_holds(one, other)
    else:
        assert new == old
