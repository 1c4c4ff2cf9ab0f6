"""An experiment: its defaults and short forms, and what is refused in which words."""

from pathlib import Path
from typing import Any, get_args

import pytest
import yaml

from dmsae_ray.config.experiment import Experiment, parse_experiment
from dmsae_ray.config.sections import Mask, Score, Trouble
from dmsae_ray.errors import ConfigError

from .experiments import fields, load_text


def refused(tree: dict[str, Any]) -> str:
    with pytest.raises(ConfigError) as error:
        parse_experiment({"name": "test", **tree})
    message = str(error.value)
    assert "\n" not in message and message.strip() == message
    return message


def test_names_of_troubles_are_those_of_the_sae_room() -> None:
    from dmsae_ray.sae.health import TROUBLES
    from dmsae_ray.sae.recipe import Recipe

    assert set(get_args(Trouble)) == set(TROUBLES)
    assert parse_experiment({"name": "test"}).recipe.stop_on == Recipe(steps=1).stop_on
    assert "recipe.stop_on" in refused({"recipe": {"stop_on": ["spikes"]}})


# --- places ---


def test_local_paths_come_out_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "model").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    text = """{name: test, output: runs, model: {name: model}, corpus: {source: text, path: ~/texts},
      distill: {initial_sae: sae}, transfer: {core: ../core.safetensors}}"""
    loaded = load_text(tmp_path, text)
    assert (loaded.output, loaded.model.name) == (f"{tmp_path}/runs", f"{tmp_path}/model")
    assert loaded.corpus.path == f"{tmp_path}/home/texts" and loaded.distill.initial_sae == f"{tmp_path}/sae"
    assert loaded.transfer and loaded.transfer.core == f"{tmp_path}/../core.safetensors"
    text = "{name: test, distill: {initial_sae: {20: a, 40: 's3://b/c'}}}"
    assert load_text(tmp_path, text).distill.initial_sae == {20: f"{tmp_path}/a", 40: "s3://b/c"}
    text = (
        "{name: test, distill: {initial_sae: {20: you/saes@v1/k20, 40: 'hf://you/saes'}}, transfer: {core: you/core}}"
    )
    loaded = load_text(tmp_path, text)
    # What is not here is on the Hub, and stays so in every working directory.
    assert loaded.distill.initial_sae == {20: "hf://you/saes@v1/k20", 40: "hf://you/saes"} and loaded.transfer
    assert loaded.transfer.core == "hf://you/core"
    (tmp_path / "you" / "core").mkdir(parents=True)
    found = load_text(tmp_path, text).transfer
    assert found is not None and found.core == f"{tmp_path}/you/core", "what is here is local"
    far = "{name: test, output: 's3://b/o', model: {name: google/gemma-2-2b}, corpus: {path: monology/pile}}"
    loaded = load_text(tmp_path, far)
    assert (loaded.output, loaded.model.name) == ("s3://b/o", "google/gemma-2-2b")
    assert loaded.corpus.path == "monology/pile"


@pytest.mark.parametrize("place", ["hf://datasets/a/b", "hf://a", "hf://a/b/../c", "hf://"])
def test_a_uri_of_the_hub_must_be_of_a_model(place: str) -> None:
    for tree in (
        {"distill": {"initial_sae": place}},
        {"distill": {"initial_sae": {4: place}}},
        {"transfer": {"core": place}},
    ):
        line = refused(tree)
        assert f'is "{place}"; on the Hub it must be hf://user/repo[@revision][/folder], of a model' in line
        assert line.startswith(("distill.initial_sae", "transfer.core"))


# --- defaults and short forms ---


def test_defaults_are_the_paper() -> None:
    experiment = parse_experiment({"name": "test"})
    assert experiment.distill.coverage == 0.9 and experiment.distill.quantile == 0.99
    assert experiment.sae.n_latents == 65_536 and experiment.recipe.lr == 3e-4
    assert parse_experiment(yaml.safe_load(experiment.to_yaml())) == experiment


def test_saebench_recipe_by_its_name_turns_the_token_filters_off(tmp_path: Path) -> None:
    short = parse_experiment({"name": "test", "recipe": "saebench"})
    assert short.activations.drop_bos is False and short.activations.max_norm_multiple is None
    assert short.activations.drop_special is False
    assert short == parse_experiment({"name": "test", "recipe": {"name": "saebench"}})
    assert short.recipe.threshold == "running_mean", "as the peer has it"
    calibrated = parse_experiment({"name": "test", "recipe": {"name": "saebench", "threshold": "calibrated"}})
    assert calibrated.recipe.threshold == "calibrated" and parse_experiment({"name": "test"}).recipe == (
        calibrated.recipe.model_copy(update={"name": "default"})
    )
    assert short.located() == load_text(tmp_path, short.to_yaml())
    assert parse_experiment({"name": "test"}).activations.drop_bos is True


def test_a_section_of_comments_is_an_empty_section(tmp_path: Path) -> None:
    text = "name: test\nsweep:\n  # k: [1]\nrecipe:\n"
    assert load_text(tmp_path, text) == parse_experiment({"name": "test"}).located()


def test_whole_numbers_may_be_written_with_an_exponent(tmp_path: Path) -> None:
    experiment = load_text(tmp_path, "name: test\nrecipe: {tokens: 5e8, lr: 1e-3}\n")
    assert experiment.recipe.tokens == 500_000_000 and experiment.recipe.lr == 1e-3


def test_text_that_looks_like_an_exponent_stays_text(tmp_path: Path) -> None:
    assert load_text(tmp_path, "name: test\nmodel: {revision: 12e34567}\n").model.revision == "12e34567"
    assert load_text(tmp_path, "name: test\n", "model.revision=12e34567").model.revision == "12e34567"


def test_a_single_setting_keeps_everything_but_the_grid() -> None:
    tree: dict[str, Any] = {"name": "test", "seed": 5, "sae": {"k": 3}, "sweep": {"k": [1, 2], "seeds": [7]}}
    experiment = parse_experiment(tree)
    single = experiment.single()
    assert (single.ks, single.coverages, single.sweep.seeds) == ((3,), (0.9,), (5,))
    assert single.model_dump(exclude={"sweep"}) == experiment.model_dump(exclude={"sweep"})


def test_a_single_setting_is_one_that_was_given() -> None:
    """Not a default that nobody chose, and one that is checked as any other."""
    tree: dict[str, Any] = {"name": "test", "sweep": {"k": [4, 8], "coverage": [0.1]}}
    single = parse_experiment(tree).single()
    assert (single.ks, single.coverages) == ((4,), (0.1,))
    small = {"name": "test", "sae": {"k": 80, "n_latents": 64, "group_sizes": [64]}, "sweep": {"k": [4]}}
    with pytest.raises(ConfigError, match=r"^sae\.k is 80; it must be below sae\.n_latents = 64"):
        parse_experiment(small).single()


# --- what is refused ---

REFUSED = {
    "coverage 0": ({"distill": {"coverage": 0}}, "distill.coverage is 0; it must be a number in (0, 1]"),
    "coverage above 1": ({"distill": {"coverage": 1.5}}, "distill.coverage is 1.5; it must be a number in (0, 1]"),
    "coverage NaN": ({"distill": {"coverage": float("nan")}}, "distill.coverage is NaN; it must be a number in (0, 1]"),
    "coverage text": ({"distill": {"coverage": "most"}}, 'distill.coverage is "most"; it must be a number in (0, 1]'),
    "coverage in grid": ({"sweep": {"coverage": [0.5, 2]}}, "sweep.coverage.1 is 2; it must be a number in (0, 1]"),
    "quantile": ({"distill": {"quantile": -0.1}}, "distill.quantile is -0.1; it must be a number in [0, 1]"),
    "beta": ({"recipe": {"betas": [0.9, 1]}}, "recipe.betas.1 is 1; it must be a number in [0, 1)"),
    "betas": ({"recipe": {"betas": [0.9]}}, "recipe.betas is [0.9]; it must be a list of 2 numbers in [0, 1)"),
    "three betas": (
        {"recipe": {"betas": [0, 0, 0]}},
        "recipe.betas is [0, 0, 0]; it must be a list of 2 numbers in [0, 1)",
    ),
    "context": ({"corpus": {"context": 4}}, "corpus.context is 4; it must be a whole number from 8 to 131072"),
    "k 0": ({"sae": {"k": 0}}, "sae.k is 0; it must be a whole number of at least 1"),
    "k fraction": ({"sae": {"k": 2.5}}, "sae.k is 2.5; it must be a whole number of at least 1"),
    "k true": ({"sae": {"k": True}}, "sae.k is true; it must be a whole number of at least 1"),
    "seeds no list": (
        {"sweep": {"seeds": 3}},
        "sweep.seeds is 3; it must be a list of whole numbers from 0 to 4294967295",
    ),
    "seed": ({"sweep": {"seeds": [-1]}}, "sweep.seeds.0 is -1; it must be a whole number from 0 to 4294967295"),
    "choice": ({"model": {"dtype": "int8"}}, 'model.dtype is "int8"; it must be one of float32, bfloat16, float16'),
    "control": (
        {"distill": {"controls": ["x"]}},
        'distill.controls.0 is "x"; it must be one of gaussian, gaussian_unit, random_latents',
    ),
    "bool": ({"activations": {"drop_bos": "maybe"}}, 'activations.drop_bos is "maybe"; it must be true or false'),
    "infinite": ({"recipe": {"clip_norm": float("inf")}}, "recipe.clip_norm is Infinity; it must be a number above 0"),
    "text": ({"model": {"revision": 12}}, "model.revision is 12; it must be text"),
    "section": ({"model": "tiny"}, 'model is "tiny"; it must be a section with name, revision, layer'),
    "recipe name": ({"recipe": "saebnch"}, 'recipe.name is "saebnch"; it must be one of default, saebench'),
    "name": ({"name": "a b"}, 'name is "a b"; it must be text that matches'),
    "name too long": ({"name": "a" * 101}, "at most 100 characters"),
    "empty output": ({"output": ""}, 'output is ""; it must be'),
    "groups": (
        {"sae": {"n_latents": 64, "group_sizes": [8, 8]}},
        "[8, 8] add up to 16; they must add up to sae.n_latents = 64",
    ),
    "no groups": ({"sae": {"n_latents": 31}}, "sae.n_latents is 31; SAEBench's groups need at least 32"),
    "k too large": ({"sae": {"n_latents": 64, "k": 64}}, "sae.k is 64; it must be below sae.n_latents = 64"),
    "k of the grid": (
        {"sae": {"n_latents": 64}, "sweep": {"k": [4, 99]}},
        "sweep.k is 99; it must be below sae.n_latents = 64",
    ),
    "empty grid": ({"sweep": {"k": []}}, "sweep.k is []; it must hold at least one value, and none twice"),
    "twice": ({"sweep": {"seeds": [1, 1]}}, "sweep.seeds is [1, 1]; it must hold at least one value, and none twice"),
    "arms": ({"transfer": {"arms": []}}, "transfer.arms is []; it must hold at least one value, and none twice"),
    "controls": ({"distill": {"controls": ["gaussian"] * 2}}, "it must hold at least one value, and none twice"),
    "pool": ({"distill": {"pool_groups": 6}}, "distill.pool_groups is 6; there are 5 groups"),
    "core_size": (
        {"sae": {"n_latents": 64, "k": 4}, "distill": {"core_size": 3}},
        "distill.core_size is 3; it must be at most 2, the latents of the first distill.pool_groups = 1 groups",
    ),
    "core_size and a grid of coverages": (
        {"sae": {"n_latents": 64, "k": 4}, "distill": {"core_size": 2}, "sweep": {"coverage": [0.5, 0.9]}},
        "distill.core_size is 2, in place of a coverage; leave out sweep.coverage",
    ),
    "parts without tokens": (
        {"corpus": {"attribution_tokens": 40}, "distill": {"intersect": 3}},
        "corpus.attribution_tokens is 40; cut into 3 parts",
    ),
    "fresh and intersect": (
        {"distill": {"fresh_attribution": True, "intersect": 2}},
        "distill.intersect is 2; with distill.fresh_attribution it must be 1",
    ),
    "min_cycles": ({"distill": {"cycles": 2, "min_cycles": 4}}, "distill.min_cycles is 4; it must be from 1 to 3"),
    "trimmed mean": ({"distill": {"score": "trimmed_mean", "quantile": 0.5}}, "distill.quantile is 0.5"),
    "weights": ({"recipe": {"group_weights": [1, 1]}}, "recipe.group_weights has 2 values; there are 5 groups"),
    "no steps": ({"recipe": {"tokens": 4095}}, "recipe.tokens is 4095; at least two batches of 2048 are needed"),
    "threshold": (
        {"recipe": {"tokens": 204_800, "threshold": "running_mean"}},
        "recipe.threshold_start_step is 1000; with 100 steps",
    ),
    "warm-up": (
        {"recipe": {"tokens": 204_800, "threshold_start_step": 9, "warmup_steps": 100}},
        "recipe.warmup_steps is 100; it must be below the 100 steps of a cycle",
    ),
    "decay": (
        {"recipe": {"tokens": 204_800, "threshold_start_step": 9, "warmup_steps": 90}},
        "recipe.decay_start is 0.8; lr would fall from step 80 of 100, while it still warms up (90)",
    ),
    "batch": ({"corpus": {"tokens": 1024}}, "recipe.batch_size is 2048; corpus.tokens is only 1024"),
    "shard": ({"activations": {"shard_tokens": 512}}, "it must be at least one context, corpus.context = 1024"),
    "encoding": (
        {"corpus": {"source": "text", "path": "a", "encoding": "utf-9"}},
        'corpus.encoding is "utf-9"; it must be an encoding that Python knows',
    ),
    "codec of no text": (
        {"corpus": {"source": "text", "path": "a", "encoding": "hex"}},
        'corpus.encoding is "hex"; it must be an encoding',
    ),
    "encoding of parquet": (
        {"corpus": {"source": "parquet", "path": "a", "encoding": "latin-1"}},
        "corpus.encoding is 'iso8859-1'; source 'parquet' is utf-8",
    ),
    "no path": ({"corpus": {"path": ""}}, "corpus.path is empty; source 'huggingface' needs"),
    "stdlib path": (
        {"corpus": {"source": "stdlib", "path": "x.txt"}},
        "corpus.path is \"x.txt\"; source 'stdlib' reads none",
    ),
    "saebench filters": ({"recipe": "saebench", "activations": {"drop_bos": True}}, "leave out activations.drop_bos"),
    "actors": ({"resources": {"model_actors_min": 3}}, "resources.model_actors_max is 1; it must be at least"),
    "GPUs": (
        {"resources": {"gpus_per_worker": 1.5}},
        "resources.gpus_per_worker is 1.5; it must be at most 1, or a whole",
    ),
    "password": ({"tracking": {"uri": "https://me:s3cret@host"}}, "tracking.uri must not hold a password"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_bad_values_are_refused_in_one_line_with_field_value_and_rule(case: str) -> None:
    tree, said = REFUSED[case]
    assert said in refused(tree)


def test_a_password_is_not_repeated_in_the_message() -> None:
    assert "s3cret" not in refused({"tracking": {"uri": "https://me:s3cret@host"}})


def test_a_missing_name_is_said_with_what_it_is() -> None:
    with pytest.raises(ConfigError, match="name is missing; it must be given: name of the sweep"):
        parse_experiment({})


def test_the_number_of_other_problems_is_said() -> None:
    assert refused({"sae": {"k": 0}, "distill": {"coverage": 7}}).endswith("(and 1 more)")


@pytest.mark.parametrize(
    ("tree", "hint"),
    [
        ({"sweep": {"seed": [1]}}, "sweep.seed is not a setting; did you mean 'sweep.seeds'?"),
        ({"sae": {"nlatents": 5}}, "sae.nlatents is not a setting; did you mean 'sae.n_latents'?"),
        ({"swep": {}}, "swep is not a setting; did you mean 'sweep'?"),
        ({"transfer": {"arm": []}}, "transfer.arm is not a setting; did you mean 'transfer.arms'?"),
        ({"n_latents": 5}, "n_latents is not a setting; did you mean 'sae.n_latents'?"),
        ({"sae": {"learning": 1}}, "sae.learning is not a setting; known here: n_latents, group_sizes"),
    ],
)
def test_an_unknown_key_names_the_nearest(tree: dict[str, Any], hint: str) -> None:
    assert hint in refused(tree)


@pytest.mark.parametrize("setting", [name for name, _ in fields(Experiment)])
def test_no_setting_takes_a_mapping_and_the_message_says_what_it_takes(setting: str) -> None:
    tree: dict[str, Any] = {}
    *sections, last = setting.split(".")
    node = tree
    for section in sections:
        node = node.setdefault(section, {})
    node[last] = {"a": 1}
    message = refused(tree)
    assert message.startswith((f"{setting} is ", "sweep.axes has 'a'")) and "; it must be " in message


@pytest.mark.parametrize(("name", "field"), fields(Experiment))
def test_every_setting_is_described(name: str, field: Any) -> None:
    assert field.description, name


def test_scores_are_those_that_attribution_knows() -> None:
    from dmsae_ray.distill.attribution import SCORES
    from dmsae_ray.distill.pool_mask import MASKS

    assert set(get_args(Score)) == set(SCORES)
    assert get_args(Mask) == MASKS
