"""The addresses of stores, cycles and sweeps: whoever changes one makes old results unfindable, and must mean it."""

import hashlib
import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from dmsae_ray.config.experiment import Experiment, load_experiment
from dmsae_ray.distill.cycle_settings import cycle_key
from dmsae_ray.distill.seeds import derive_seed
from dmsae_ray.plan.training import cycle_settings
from dmsae_ray.plan.trials import expand
from dmsae_ray.store import identity
from dmsae_ray.store.identity import store_key

SWEEPS = Path(__file__).parent.parent / "sweeps"

# On Python 3.11.7. The first digest of a sweep, and the stores, are of version 0.1.0, commit bb97501. The second
# digest and the cycles are of METHOD_VERSION 2 and KEY_VERSION 2: thresholds are calibrated.
GEMMA_STORE = "2b9925b6f5ea6b1f303766bf"
DIGESTS_AND_STORES = {
    "demo": ("9c9027bb412fb757", "7c2d976201c4e66f", "2a24674b64b99e8f20f022e8"),
    "figure2_cycles": ("2a23918fe545152f", "32ae39a83e9ab568", GEMMA_STORE),
    "figure3_random_core": ("a0d3cdf60a38af97", "95ad9909fbba9a00", GEMMA_STORE),
    "figure4_7_transfer": ("659bbff89971d43b", "2ad566dea7a9dddd", GEMMA_STORE),
    "figure5_coverage": ("1c90f85fe2086989", "1ccda37cfd463cfd", GEMMA_STORE),
    "figure6_sparsity": ("8f3e4b3a54afc420", "b8c062bd2df37c73", GEMMA_STORE),
    "stability_tiny": ("2ea3a477844698dd", "47114be50833b59d", "2a24674b64b99e8f20f022e8"),
}
FIRST_CYCLES = {
    "k4-tau0.3-seed0": "3f61f0172b3fe681dfe2cc8cd935513f484adfdd56de8d604194b80ecae55662",
    "k8-tau0.3-seed0": "b09a60449aec4c8b232652da51f0f9a435b9eba343ed60895756e9bed695673a",
    "k4-tau0.5-seed0": "3f61f0172b3fe681dfe2cc8cd935513f484adfdd56de8d604194b80ecae55662",
    "k8-tau0.5-seed0": "b09a60449aec4c8b232652da51f0f9a435b9eba343ed60895756e9bed695673a",
    "k4-tau0.3-seed1": "f58247cd1d21376c2ea361a38c098f5f278e3086d3acf71e54cbe86514e6dfd8",
    "k8-tau0.3-seed1": "509d6e71c24b64b00f8ca99a3571c8282dbb1a4018a7ffffa7283b788d15bb00",
    "k4-tau0.5-seed1": "f58247cd1d21376c2ea361a38c098f5f278e3086d3acf71e54cbe86514e6dfd8",
    "k8-tau0.5-seed1": "509d6e71c24b64b00f8ca99a3571c8282dbb1a4018a7ffffa7283b788d15bb00",
}
AROUND_A_CORE = "755f0295ddc415824fbd57b573df87d0e2148c348182c1c49762a97eb8c92397"
"""Cycle 2 of k8-tau0.5-seed1 around two rows that count from 0 to 127."""


@pytest.fixture(autouse=True)
def python_3_11_7(monkeypatch: pytest.MonkeyPatch) -> None:
    """The text that Python carries, and so the demo's store, belongs to a version of Python."""
    monkeypatch.setattr(identity, "sys", SimpleNamespace(version_info=(3, 11, 7, "final", 0)))


@pytest.fixture
def demo() -> Experiment:
    return load_experiment(SWEEPS / "demo.yaml")


def test_every_sweep_of_the_repository_is_named() -> None:
    assert {path.stem for path in SWEEPS.glob("*.yaml")} == set(DIGESTS_AND_STORES)


@pytest.mark.parametrize("name", DIGESTS_AND_STORES)
def test_sweeps_and_stores_keep_their_addresses(name: str) -> None:
    # What a sweep asks for since: it goes on in the folder that was begun without it.
    later = ["transfer.baseline_k=null"] if name == "figure4_7_transfer" else []
    experiment = load_experiment(SWEEPS / f"{name}.yaml", later)
    first, digest, store = DIGESTS_AND_STORES[name]
    assert experiment.digest(version=1).startswith(first)
    assert experiment.digest().startswith(digest)
    assert store_key(experiment) == store


def test_a_setting_of_later_versions_counts_where_it_is_not_the_default() -> None:
    for name in ("demo", "figure2_cycles"):
        experiment = load_experiment(SWEEPS / f"{name}.yaml", ["corpus.special_tokens=text"])
        assert store_key(experiment) == DIGESTS_AND_STORES[name][2]
        other = load_experiment(SWEEPS / f"{name}.yaml", ["corpus.special_tokens=tokens"])
        assert store_key(other) != store_key(experiment)
        assert other.digest() != experiment.digest()


def fingerprint(demo: Experiment, data_seed: int) -> str:
    """What `feed.Feed.fingerprint` is for the demo, written out."""
    store = DIGESTS_AND_STORES["demo"][2]
    parts = [3, store, demo.activations.shuffle_shards, demo.activations.norm_tokens, demo.recipe.batch_size, data_seed]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def test_cycles_keep_their_addresses(demo: Experiment) -> None:
    found = {}
    for trial in expand(demo):
        settings, data = cycle_settings(demo, trial.setting, 64), fingerprint(demo, trial.data_seed)
        seed = derive_seed(trial.seed, "cycle", 0)
        found[trial.trial_id] = cycle_key(settings, data, torch.empty(0, 64), seed, 0)
    assert found == FIRST_CYCLES
    rows = torch.arange(128.0).reshape(2, 64)
    assert cycle_key(settings, data, rows, derive_seed(1, "cycle", 2), 2 * settings.steps) == AROUND_A_CORE
