"""Where a sweep's files are, and which folder is a sweep's."""

import shutil
from pathlib import Path

import pytest

from dmsae_ray.config.experiment import Experiment, load_experiment
from dmsae_ray.errors import ConfigError
from dmsae_ray.files.folder import Folder
from dmsae_ray.plan.trials import expand
from dmsae_ray.results.folders import create_folders, experiment_of, folders_of
from tests.small_sweep import TRIALS, write_config


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
    for place in (folder.with_name("small-00000000"), tmp_path / "alone"):
        with pytest.raises(ConfigError, match=r"^\'[^\n]*\' is not where its config.yaml belongs"):
            experiment_of(place)
    config = folder / "config.yaml"
    config.write_text(config.read_text().replace("cycles: 2", "cycles: 3").replace("lr: 0.002", "lr: 0.1"))
    changes = r"recipe.lr is 0.1, was 0.002, distill.cycles is 3, was 2; to run other settings"
    with pytest.raises(
        ConfigError, match=rf"^\'[^\n]*\': its config.yaml was changed since the sweep was begun: {changes}"
    ):
        experiment_of(folder)


def test_other_values_of_the_grid_go_on_in_the_same_folder(experiment: Experiment, tmp_path: Path) -> None:
    said: list[str] = []
    begun = create_folders(experiment, said.append)
    for overrides in (
        ["sweep.seeds=[1,2]"],
        ["sweep.k=[8,16]", "output=runs/../runs"],
        ["sae.k=4", "sweep.coverage=null", "distill.coverage=0.9", "seed=7", "resources.max_failures=9"],
    ):
        assert create_folders(load_experiment(tmp_path / "experiment.yaml", overrides), said.append) == begun
    whole = experiment_of(begun.sweep)
    assert whole.ks == (4, 8, 16) and whole.coverages == (0.9, 0.3, 0.6) and whole.sweep.seeds == (0, 1, 2)
    assert create_folders(whole, said.append) == begun and said == []
    assert [trial.trial_id for trial in expand(experiment)] == TRIALS


def test_any_other_setting_begins_a_sweep_of_its_own_and_says_which(experiment: Experiment, tmp_path: Path) -> None:
    said: list[str] = []
    begun = create_folders(experiment, said.append)
    other = create_folders(load_experiment(tmp_path / "experiment.yaml", ["recipe.lr=0.003"]), said.append)
    assert other.name != begun.name
    assert said == [f"a sweep of its own, not '{begun.name}': recipe.lr is 0.003, was 0.002"]
    # The nearest one is named, and each goes on as it was.
    third = ["recipe.lr=0.003", "sae.n_latents=512", "sae.group_sizes=[256,256]"]
    create_folders(load_experiment(tmp_path / "experiment.yaml", third), said.append)
    changes = "sae.n_latents is 512, was 256, sae.group_sizes is [256, 256], was [64, 64, 128]"
    assert said[1:] == [f"a sweep of its own, not '{other.name}': {changes}"]
    assert create_folders(experiment, said.append) == begun and len(said) == 2
    create_folders(load_experiment(tmp_path / "experiment.yaml", ["name=another", "recipe.lr=0.1"]), said.append)
    assert len(said) == 2


def test_a_config_that_cannot_be_read_hinders_nothing(experiment: Experiment) -> None:
    contents = (b"[", b"\xff", b"[1]", b"name: small\nfrom_the_future: 1\n")
    for number, content in enumerate(contents):
        Folder(f"{experiment.output}/sweeps/small-0000000{number}").write("config.yaml", [content])
    Folder(f"{experiment.output}/sweeps/small-0000000e").write("other", [b""])
    said: list[str] = []
    assert not create_folders(experiment, said.append).name.startswith("small-0000000")
    assert said == []


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
