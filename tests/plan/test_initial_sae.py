"""The SAE that serves as cycle 0 of a trial: one for each k, or one for all where that is said."""

import math
from pathlib import Path

import pytest
import torch

from dmsae_ray.config.experiment import Experiment, load_experiment, parse_experiment
from dmsae_ray.errors import ConfigError, DataError
from dmsae_ray.plan.training import check_initial_saes, initial_sae
from dmsae_ray.sae.dictionary import MatryoshkaSAE
from dmsae_ray.sae.files import save_sae
from dmsae_ray.sae.saelens import export_saelens
from dmsae_ray.sweep.given import find_given, hash_given

KS = (4, 8)


@pytest.fixture
def saes(tmp_path: Path) -> dict[int, str]:
    for k in KS:
        save_sae(MatryoshkaSAE(64, 64, [32, 32], k, seed=k), tmp_path / f"k{k}")
    return {k: str(tmp_path / f"k{k}") for k in KS}


def experiment(given: object, **more: object) -> Experiment:
    tree = {
        "name": "given",
        "model": {"name": "tiny", "layer": 1},
        "sae": {"n_latents": 64, "group_sizes": [32, 32], "k": 4},
    }
    return parse_experiment({**tree, "distill": {"initial_sae": given, **more}, "sweep": {"k": list(KS)}})


def test_each_k_has_its_own(saes: dict[int, str], tmp_path: Path) -> None:
    given = experiment(saes)
    check_initial_saes(given, 64)
    for k in KS:
        found = initial_sae(given, 64, k)
        assert found is not None and (found.k, found.seed) == (k, k)
    (tmp_path / "e.yaml").write_text(given.to_yaml())
    again = load_experiment(tmp_path / "e.yaml")
    assert again.distill == given.distill and again.digest() == given.digest(), "keys are numbers again"
    assert set(hash_given(find_given(given, {}))) == {"distill.initial_sae.4", "distill.initial_sae.8"}
    assert find_given(experiment(None), {}) == {}


def test_one_for_all_must_be_said(saes: dict[int, str]) -> None:
    said = experiment(saes[4], initial_sae_any_k=True)
    check_initial_saes(said, 64)
    found = initial_sae(said, 64, 8)
    assert found is not None and found.k == 4
    assert said.digest() != experiment(saes[4]).digest()


def test_saelens_s_are_read(tmp_path: Path) -> None:
    for k in KS:
        export_saelens(MatryoshkaSAE(64, 64, [32, 32], k), tmp_path / f"k{k}", "tiny", "blocks.1.hook_resid_post")
    given = experiment({k: str(tmp_path / f"k{k}") for k in KS})
    check_initial_saes(given, 64)
    found = initial_sae(given, 64, 8)
    assert found is not None and (found.group_sizes, found.k) == ((32, 32), 8)


def test_groups_beside_a_core_are_checked(tmp_path: Path) -> None:
    """A distilled SAE has a core of 8, which one group or all groups gave up."""
    core = torch.nn.functional.normalize(torch.randn(8, 64, generator=torch.Generator().manual_seed(0)), dim=1)
    for name, groups in (("last", [32, 24]), ("all", [28, 28]), ("other", [4, 52])):
        save_sae(MatryoshkaSAE(64, 64, groups, 4, core=core), tmp_path / name)
    for name in ("last", "all"):
        check_initial_saes(experiment(str(tmp_path / name), initial_sae_any_k=True), 64)
    said = r"other', with the groups \[4, 52\] beside a core of 8; it must have those .*, \[32, 32\], less its core$"
    with pytest.raises(ConfigError, match=said):
        check_initial_saes(experiment(str(tmp_path / "other"), initial_sae_any_k=True), 64)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_an_sae_of_nan_is_refused(tmp_path: Path, value: float) -> None:
    sae = MatryoshkaSAE(64, 64, [32, 32], 4)
    sae.W_dec.data[3, 5] = value
    save_sae(sae, tmp_path / "sae")
    with pytest.raises(DataError, match=r"^distill.initial_sae is '[^\n]*'; its W_dec holds numbers that are NaN"):
        check_initial_saes(experiment(str(tmp_path / "sae")), 64)
