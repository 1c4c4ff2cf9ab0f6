"""The digest of an experiment: what results depend on changes it, and nothing else."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dmsae_ray.config.experiment import Experiment, parse_experiment

from .experiments import fields, load_text

IGNORED = ("output", "resources", "tracking")
# A different valid value of every setting that results depend on, on top of BASE.
BASE: dict[str, Any] = {"name": "test", "transfer": {}}
OTHER: dict[str, Any] = {
    "name": "other",
    "seed": 1,
    "model.name": "tiny",
    "model.revision": "main",
    "model.layer": 3,
    "model.dtype": "float32",
    "model.attention": "eager",
    "corpus.source": "text",
    "corpus.path": "elsewhere",
    "corpus.subset": "sample",
    "corpus.split": "test",
    "corpus.revision": "main",
    "corpus.text_field": "body",
    "corpus.encoding": None,  # of sources 'text' and 'jsonl' only: see below
    "corpus.special_tokens": "tokens",
    "corpus.context": 512,
    "corpus.tokens": 1_000_000,
    "corpus.attribution_tokens": 10_000,
    "corpus.eval_tokens": 10_000,
    "activations.mode": None,  # has one value only
    "activations.dtype": "float32",
    "activations.shard_tokens": 8192,
    "activations.shuffle_shards": 2,
    "activations.norm_tokens": 1000,
    "activations.drop_bos": False,
    "activations.drop_special": True,
    "activations.max_norm_multiple": 20.0,
    "sae.n_latents": 32_768,
    "sae.group_sizes": [32_768, 32_768],
    "sae.k": 40,
    "sae.core_sparsity": "sparse",
    "sae.core_decoder_init": "tied",
    "sae.core_takes": "all_groups",
    "recipe.name": None,  # changes the filters too: see above
    "recipe.tokens": 100_000_000,
    "recipe.batch_size": 4096,
    "recipe.lr": 1e-3,
    "recipe.warmup_steps": 10,
    "recipe.decay_start": 0.5,
    "recipe.betas": [0.9, 0.99],
    "recipe.clip_norm": 2.0,
    "recipe.auxk_alpha": 0.1,
    "recipe.k_aux": 64,
    "recipe.dead_after_tokens": 1000,
    "recipe.threshold_beta": 0.9,
    "recipe.threshold_start_step": 10,
    "recipe.threshold": "running_mean",
    "recipe.stop_on": ["spike"],
    "recipe.group_weights": [1, 1, 1, 1, 2],
    "distill.cycles": 7,
    "distill.coverage": 0.5,
    "distill.score": "mean",
    "distill.quantile": 0.9,
    "distill.pool_groups": 2,
    "distill.min_cycles": 2,
    "distill.core_size": 2,
    "distill.mask": "batch_topk",
    "distill.intersect": 2,
    "distill.fresh_attribution": True,
    "distill.initial_sae": {80: "folder"},
    "distill.initial_sae_any_k": True,
    "distill.controls": ["gaussian", "random_latents"],
    "distill.control_chains": ["gaussian"],
    "transfer.core": "core.safetensors",
    "transfer.arms": ["distilled"],
    "transfer.core_sparsity": ["sparse"],
    "transfer.baseline_k": "matched",
    "transfer.baseline_budgets": [1, 9],
    "sweep.k": [80],
    "sweep.coverage": [0.9],
    "sweep.seeds": [1],
    "sweep.data_seed": 1,
    "sweep.data_per_seed": True,
    "sweep.axes": None,  # not with a transfer: see below
}


def possible(names: set[str]) -> bool:
    """These two exclude each other."""
    return not {"distill.intersect", "distill.fresh_attribution"} <= names


DECIDING = [name for name, value in OTHER.items() if value is not None]
ELSEWHERE = {
    "output": st.sampled_from(["here", "s3://bucket/there"]),
    "resources.workers_per_trial": st.integers(1, 64),
    "resources.cpus_per_worker": st.floats(0.5, 64),
    "resources.gpus_per_worker": st.sampled_from([0, 0.5, 1, 8]),
    "resources.max_concurrent_trials": st.none() | st.integers(1, 99),
    "resources.model_actors_max": st.integers(1, 64),
    "resources.model_batch_tokens": st.integers(8, 10_000),
    "resources.checkpoint_every_tokens": st.integers(1, 10**9),
    "tracking.uri": st.none() | st.just("http://host:5000"),
    "tracking.experiment": st.none() | st.text("abc", min_size=1),
    "tracking.window_steps": st.none() | st.integers(1, 1000),
}


def _tree(settings: dict[str, Any]) -> dict[str, Any]:
    tree: dict[str, Any] = {name: dict(v) if isinstance(v, dict) else v for name, v in BASE.items()}
    for name, value in settings.items():
        *sections, last = name.split(".")
        node = tree
        for section in sections:
            node = node.setdefault(section, {})
        node[last] = value
    return tree


def test_the_test_knows_every_setting() -> None:
    names = {name for name, _ in fields(Experiment)}
    assert names == set(OTHER) | {n for n in names if n.split(".")[0] in IGNORED}


@given(st.sets(st.sampled_from(DECIDING), max_size=6).filter(possible), st.fixed_dictionaries({}, optional=ELSEWHERE))
def test_the_digest_says_what_results_depend_on(changed: set[str], elsewhere: dict[str, Any]) -> None:
    if "sae.n_latents" in changed:
        changed -= {"sae.group_sizes"}  # have to add up
    plain = {name: OTHER[name] for name in changed}
    if "sae.group_sizes" in changed:
        plain.pop("recipe.group_weights", None)
    here = parse_experiment(_tree(plain))
    there = parse_experiment(_tree({**plain, **elsewhere}))
    assert here.digest() == there.digest()
    assert (here.digest() == parse_experiment(_tree({})).digest()) == (not plain)


@pytest.mark.parametrize("name", DECIDING)
def test_the_digest_changes_with_every_setting_that_results_depend_on(name: str) -> None:
    assert parse_experiment(_tree({name: OTHER[name]})).digest() != parse_experiment(_tree({})).digest()


def test_the_digest_knows_an_encoding_and_not_how_it_is_written() -> None:
    text = {"corpus.source": "text", "corpus.path": "somewhere"}
    plain, other = parse_experiment(_tree(text)).digest(), set()
    for name in ("latin-1", "ISO-8859-1", "latin_1"):
        other.add(parse_experiment(_tree({**text, "corpus.encoding": name})).digest())
    assert len(other) == 1 and plain not in other
    assert parse_experiment(_tree({**text, "corpus.encoding": "UTF8"})).digest() == plain


def test_the_digest_does_not_depend_on_how_a_number_is_written(tmp_path: Path) -> None:
    one = load_text(tmp_path, "name: a\ndistill: {coverage: 1}\nrecipe: {tokens: 1e8}\n")
    two = load_text(tmp_path, "recipe: {tokens: 100_000_000}\ndistill: {coverage: 1.0}\nname: a\n")
    assert one.digest() == two.digest()


def test_axes_and_their_values_change_the_digest() -> None:
    found = [{}, {"recipe.clip_norm": [1.0, 2.0]}, {"recipe.clip_norm": [1.0]}, {"recipe.lr": [1.0]}]
    digests = {parse_experiment({"name": "test", "sweep": {"axes": axes}}).digest() for axes in found}
    assert len(digests) == 4
