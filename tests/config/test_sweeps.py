"""The experiments that the repository ships."""

from pathlib import Path
from typing import Any

import pytest

from dmsae_ray.config.experiment import Experiment, load_experiment
from dmsae_ray.errors import ConfigError

from .experiments import load_text

SWEEPS = sorted((Path(__file__).parents[2] / "sweeps").glob("*.yaml"))
FIGURES = {"figure2_cycles", "figure3_random_core", "figure4_7_transfer", "figure5_coverage", "figure6_sparsity"}


def test_there_is_a_sweep_for_the_demo_and_for_each_experiment_of_the_paper() -> None:
    assert {path.stem for path in SWEEPS} == {"demo", "stability_tiny", *FIGURES}


@pytest.mark.parametrize("path", SWEEPS, ids=lambda path: path.stem)
def test_every_sweep_validates_and_survives_a_round_trip(path: Path, tmp_path: Path) -> None:
    experiment = load_experiment(path)
    again = load_text(tmp_path, experiment.to_yaml())
    assert again == experiment
    assert again.digest() == experiment.digest()
    assert again.to_yaml() == experiment.to_yaml()


@pytest.mark.parametrize("path", [p for p in SWEEPS if p.stem in FIGURES], ids=lambda path: path.stem)
def test_every_figure_runs_small(path: Path) -> None:
    """What is asked stays; model, text, sizes and resources are those of the embedded model; overrides come last."""
    whole, small = load_experiment(path), load_experiment(path, ["sweep.seeds=[7]"], preset="tiny")
    assert small.model.name == "tiny" and small.name == f"{whole.name}-tiny" and small.sweep.seeds == (7,)
    assert small.distill == whole.distill and small.coverages == whole.coverages
    assert (small.transfer is None) == (whole.transfer is None)
    assert len(small.ks) == len(whole.ks) and small.ks == tuple(k // 10 for k in whole.ks)
    assert small.resources.gpus_per_worker == 0 and small.tracking.window_steps is None
    assert small.recipe.tokens <= small.corpus.tokens == 400_000


def test_a_preset_that_cannot_be_applied_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"^--preset is 'odd'; known are tiny$"):
        load_experiment(SWEEPS[0], preset="odd")
    path = tmp_path / "given.yaml"
    path.write_text("name: given\nrecipe: saebench\ndistill:\n  initial_sae: {80: folder}\n")
    with pytest.raises(ConfigError, match=r"^--preset is given, and distill.initial_sae is of another model"):
        load_experiment(path, preset="tiny")
    path.write_text("name: named\nrecipe: saebench\nsae:\n  core_sparsity: sparse\n")
    found = load_experiment(path, preset="tiny")
    assert (found.recipe.name, found.recipe.threshold, found.recipe.tokens) == ("saebench", "running_mean", 102_400)
    assert (found.sae.core_sparsity, found.sae.k, found.sae.n_latents) == ("sparse", 8, 2048)


def test_every_sweep_has_a_name_of_its_own() -> None:
    names = [load_experiment(path).name for path in SWEEPS]
    assert len(set(names)) == len(names)


def test_the_experiments_of_the_paper_share_one_store_of_activations() -> None:
    figures = [load_experiment(path) for path in SWEEPS if path.stem in FIGURES]
    assert len({(e.model, e.corpus, e.activations) for e in map(_hashable, figures)}) == 1


def _hashable(experiment: Experiment) -> Any:
    sections = {name: getattr(experiment, name).model_dump_json() for name in ("model", "corpus", "activations")}
    return type("Sections", (), sections)


def test_the_experiments_of_the_paper_have_its_settings() -> None:
    experiments = {path.stem: load_experiment(path) for path in SWEEPS}
    for name in FIGURES:
        experiment = experiments[name]
        assert (experiment.model.name, experiment.model.layer) == ("google/gemma-2-2b", 12)
        assert experiment.sae.groups == (2048, 4096, 8192, 16384, 34816)
        assert experiment.recipe.steps == 244_140  # SAEBench: int(5e8 / 2048)
    six = (20, 40, 80, 160, 320, 640)
    assert experiments["figure2_cycles"].distill.cycles == 7
    assert experiments["figure2_cycles"].coverages == (0.9,)
    assert experiments["figure6_sparsity"].ks == six and experiments["figure6_sparsity"].distill.cycles == 4
    assert experiments["figure4_7_transfer"].ks == six
    transfer = experiments["figure4_7_transfer"].transfer
    assert transfer is not None and set(transfer.core_sparsity) == {"dense", "sparse"} and "baseline" in transfer.arms
    random_core = experiments["figure3_random_core"].transfer
    assert random_core is not None and set(random_core.arms) == {"distilled", "gaussian"}
    taus = experiments["figure5_coverage"].coverages
    assert min(taus) <= 0.5 and 0.95 < max(taus) < 1


def test_the_demo_has_two_of_everything_and_a_core_that_can_mean_something() -> None:
    demo = load_experiment(Path(__file__).parents[2] / "sweeps" / "demo.yaml")
    assert len(demo.ks) >= 2 and len(demo.coverages) >= 2 and len(demo.sweep.seeds) >= 2 and demo.distill.cycles >= 3
    d_model = 64  # of the embedded model
    assert demo.sae.groups[0] >= 2 * d_model
    assert "gaussian" in demo.distill.controls
