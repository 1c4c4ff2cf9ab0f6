"""Where a sweep's files are, and which folder is a sweep's."""

import shutil
from pathlib import Path

import pytest

from dmsae_ray.config.experiment import Experiment, load_experiment
from dmsae_ray.errors import ConfigError
from dmsae_ray.results.folders import create_folders, experiment_of, folders_of
from tests.small_sweep import write_config


@pytest.fixture
def experiment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Experiment:
    monkeypatch.chdir(tmp_path)
    return load_experiment(write_config(tmp_path))


def test_a_sweep_folder_gives_its_experiment_even_where_output_was_moved(
    experiment: Experiment, tmp_path: Path
) -> None:
    folder = create_folders(experiment).sweep
    assert experiment_of(folder) == experiment
    shutil.move(tmp_path / "runs", tmp_path / "elsewhere")
    moved = tmp_path / "elsewhere" / "sweeps" / folder.name
    assert experiment_of(moved) == experiment.model_copy(update={"output": str(tmp_path / "elsewhere")})


def test_a_renamed_folder_or_a_changed_config_is_refused(experiment: Experiment, tmp_path: Path) -> None:
    folder = create_folders(experiment).sweep
    shutil.copytree(folder, folder.with_name("small-00000000"))
    shutil.copytree(folder, tmp_path / "alone")
    config = folder / "config.yaml"
    config.write_text(config.read_text().replace("cycles: 2", "cycles: 3"))
    for place in (folder, folder.with_name("small-00000000"), tmp_path / "alone"):
        with pytest.raises(ConfigError, match=r"^\'[^\n]*\' is not where its config.yaml belongs"):
            experiment_of(place)


def test_a_bucket_keeps_what_workers_write_and_this_machine_the_rest(
    experiment: Experiment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    far = experiment.model_copy(update={"output": "s3://bucket/runs?region=us-east-1"})
    folders = folders_of(far)
    assert folders.stores == "s3://bucket/runs/stores?region=us-east-1"
    assert folders.sweep == tmp_path / "dmsae-runs" / "sweeps" / folders.name
    folders.sweep.mkdir(parents=True)
    (folders.sweep / "config.yaml").write_text(far.to_yaml())
    assert experiment_of(folders.sweep) == far
    monkeypatch.chdir("/")
    with pytest.raises(ConfigError, match=r"another working directory"):
        experiment_of(folders.sweep)
