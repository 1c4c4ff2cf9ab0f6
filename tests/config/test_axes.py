"""Further axes of a grid: what can be one, what a bad one is told, and the experiments that stand at their points."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from dmsae_ray.config import Experiment, parse_experiment
from dmsae_ray.config.axes import axes_name, short_names
from dmsae_ray.errors import ConfigError
from dmsae_ray.plan import Trial, expand

from .experiments import load_text


def make(axes: Any, **settings: Any) -> Experiment:
    tree = {"name": "it", "model": {"name": "tiny", "layer": 1}, **settings}
    return parse_experiment({**tree, "sweep": {**settings.get("sweep", {}), "axes": axes}})


def test_points_are_all_combinations_and_each_is_an_experiment() -> None:
    one = make({"distill.quantile": [0.9, 0.999], "recipe": {"betas": [[0.9, 0.99], [0.9, 0.999]]}})
    assert one.points == (
        (("distill.quantile", 0.9), ("recipe.betas", (0.9, 0.99))),
        (("distill.quantile", 0.9), ("recipe.betas", (0.9, 0.999))),
        (("distill.quantile", 0.999), ("recipe.betas", (0.9, 0.99))),
        (("distill.quantile", 0.999), ("recipe.betas", (0.9, 0.999))),
    )
    at = one.at(one.points[2])
    plain = make({}, distill={"quantile": 0.999}, recipe={"betas": [0.9, 0.99]})
    assert at == plain and at.digest() == plain.digest() and plain.points == ((),) and plain.at(()) is plain


def test_they_are_read_from_yaml_and_from_overrides(tmp_path: Path) -> None:
    text = "name: it\nmodel: {name: tiny, layer: 1}\nsweep:\n  axes: {recipe.lr: [3e-4, 1e-3]}\n"
    assert load_text(tmp_path, text).sweep.axes == {"recipe.lr": (3e-4, 1e-3)}
    by_hand = load_text(tmp_path, text, "sweep.axes={distill.score: [mean, max], recipe.lr: [0.5]}")
    assert by_hand.sweep.axes == {"distill.score": ("mean", "max"), "recipe.lr": (0.5,)}
    again = load_text(tmp_path, by_hand.to_yaml())
    assert again == by_hand and again.digest() == by_hand.digest()


@pytest.mark.parametrize(
    ("axes", "message"),
    [
        ([1], "sweep.axes is [1]; it must be a mapping from settings to their values"),
        ({"recipe.lr": 1e-3}, "sweep.axes has recipe.lr: 0.001; it must be a list of at least one value"),
        ({"recipe.lr": []}, "sweep.axes has recipe.lr: []; it must be a list of at least one value"),
        ({"recipe.lr": [1e-3, "1e-3"]}, "sweep.axes has recipe.lr: [0.001, '1e-3']; it must hold no value twice"),
        ({"recipe.clip_norm": [1, 1.0]}, "sweep.axes has recipe.clip_norm: [1, 1.0]; it must hold no value twice"),
        ({"recipe.clip_norm": [1, "1"]}, "sweep.axes has recipe.clip_norm: [1, '1']; it must hold no value twice"),
        ({"recipe.warmup_steps": [1, True]}, "sweep.axes has recipe.warmup_steps: true; it must be a whole number"),
        ({"activations.drop_bos": [True, 1]}, "sweep.axes has activations.drop_bos: [True, 1]; it must hold no value"),
        ({"distill.core_size": [None, 32]}, "sweep.axes has distill.core_size: null; it must be a whole number of at"),
        ({1: [2]}, "sweep.axes has '1'; it must be a setting of model, corpus, "),
        ({None: [2]}, "sweep.axes has 'None'; it must be a setting of model, corpus, "),
        ({"distill": {}}, "sweep.axes has 'distill'; it must be a setting of model, corpus, "),
        ({"recipe.lr": [1], "recipe": {"lr": [0.1]}}, "sweep.axes has recipe.lr twice; give each axis once"),
        ({"distill.min_cycles": [1, 2]}, "sweep.axes has 'distill.min_cycles'; it is no axis: no training depends on"),
        ({"activations.norm_tokens": [1]}, "sweep.axes has 'activations.norm_tokens'; it is no axis: all trials"),
        ({"distill.quantil": [0.9]}, "sweep.axes has 'distill.quantil'; it must be a setting of model, corpus, "),
        ({"tracking.uri": ["a"]}, "sweep.axes has 'tracking.uri'; it must be a setting of model, corpus, activations"),
        ({"sae.k": [8]}, "sweep.axes has 'sae.k'; it is no axis: sweep.k has its values"),
        (
            {"distill.cycles": [1, 2]},
            "sweep.axes has 'distill.cycles'; it is no axis: a trial of many cycles has those ",
        ),
        ({"distill.quantile": [0.9, 2]}, "sweep.axes has distill.quantile: 2; it must be a number in [0, 1]"),
        ({"sae.n_latents": [64, 65_536]}, "sweep.axes has n_latents=64: sae.k is 80; it must be below sae.n_latents"),
        (
            {"distill.score": ["mean", "trimmed_mean"], "distill.quantile": [0.9, 0.3]},
            "sweep.axes has quantile=0.3 score=trimmed_mean: distill.quantile is 0.3; score 'trimmed_mean' needs",
        ),
    ],
)
def test_a_bad_axis_is_one_line(axes: Any, message: str) -> None:
    with pytest.raises(ConfigError) as error:
        make(axes)
    assert str(error.value).startswith(message) and "\n" not in str(error.value)


def test_a_mistake_elsewhere_is_told_as_without_axes() -> None:
    for axes in ({}, {"distill.quantile": [0.9, 0.99]}):
        with pytest.raises(ConfigError, match=r"^sae.k is 99999; it must be below sae.n_latents = 65536$"):
            make(axes, sae={"k": 99_999})


def test_what_transfers_list_or_do_not_do_is_no_axis_of_theirs() -> None:
    said = r"^sweep.axes has 'sae.core_sparsity'; it is no axis of transfers: transfer.core_sparsity has its values$"
    with pytest.raises(ConfigError, match=said):
        make({"sae.core_sparsity": ["dense", "sparse"]}, transfer={"core": "c"})
    with pytest.raises(ConfigError, match=r"^sweep.axes has 'distill.fresh_attribution'; .*: a transfer selects once$"):
        make({"distill.fresh_attribution": [True, False]}, transfer={"core": "c"})


def test_an_axis_that_a_point_does_not_name_has_its_first_value() -> None:
    asked = make({"recipe.lr": [1e-3, 3e-3], "distill.quantile": [0.999, 0.9]}, recipe={"lr": 0.5})
    at = asked.at((("recipe.lr", 3e-3),))
    assert (at.recipe.lr, at.distill.quantile, at.sweep.axes) == (3e-3, 0.999, {})


def test_values_are_as_their_settings_read_them_and_axes_have_one_order() -> None:
    one = make({"recipe.lr": ["1e-3", 1], "distill.pool_groups": [1.0, 2]})
    other = make({"distill": {"pool_groups": [1, 2]}, "recipe.lr": [0.001, 1.0]})
    assert one == other and one.digest() == other.digest() and list(one.sweep.axes) == sorted(one.sweep.axes)
    assert repr(one.points[0]) == "(('distill.pool_groups', 1), ('recipe.lr', 0.001))"
    more = one.with_grid_of(make({"recipe.lr": [1, 2e-3], "distill.pool_groups": [2]}))
    assert more.sweep.axes == {"distill.pool_groups": (1, 2), "recipe.lr": (0.001, 1.0, 0.002)}


@pytest.mark.parametrize(
    ("path", "values"),
    [
        ("corpus.path", ["a/b", "a b", "a-b", "A-B", "/" + "x" * 300, "/" + "x" * 299 + "y"]),
        ("corpus.subset", [None, "default", "none", "None", "true"]),
        ("model.revision", ["v/1", "v-1", "v1"]),
    ],
)
def test_points_that_differ_have_names_and_stores_that_differ(path: str, values: list[Any]) -> None:
    one = make({path: values}, corpus={"source": "text", "path": "x"})
    names = [trial.trial_id.casefold() for trial in expand(one)]
    assert len(set(names)) == len(values) == len({part.store_label for part in one.parts()})
    assert all(re.fullmatch(r"[a-z0-9._+-]{1,200}", name) for name in names)
    assert [Trial.from_params(json.loads(json.dumps(t.params()))) for t in expand(one)] == expand(one)


def test_values_are_added_to_a_sweep_and_another_axis_begins_another(tmp_path: Path) -> None:
    one, more = make({"recipe.lr": [1e-3]}), make({"recipe.lr": [3e-3]}, sweep={"seeds": [4]})
    assert one.shared_settings() == more.shared_settings()
    assert more.with_grid_of(one).sweep.axes == {"recipe.lr": (3e-3, 1e-3)}
    for other in (make({}), make({"recipe.clip_norm": [1.0]}), make({"recipe.lr": [1e-3], "recipe.clip_norm": [1.0]})):
        assert other.shared_settings() != one.shared_settings()
    # What a file says of a setting that is an axis decides nothing.
    assert make({"recipe.lr": [1e-3]}, recipe={"lr": 0.5}).shared_settings() == one.shared_settings()


def test_each_store_is_a_part() -> None:
    one = make({"model.layer": [1, 2], "distill.quantile": [0.9, 0.99], "corpus.context": [64, 128]})
    parts = one.parts()
    assert [part.store_label for part in parts] == [
        *("context=64 layer=1", "context=64 layer=2"),
        *("context=128 layer=1", "context=128 layer=2"),
    ]
    assert [(part.model.layer, part.corpus.context) for part in parts] == [(1, 64), (2, 64), (1, 128), (2, 128)]
    assert sorted(point for part in parts for point in part.points) == sorted(one.points)
    assert all(part.at(point) == one.at(point) for part in parts for point in part.points)
    assert make({"recipe.lr": [1e-3]}).parts()[0].store_label == ""


def test_a_single_setting_takes_the_first_value_unless_the_file_says_one() -> None:
    assert make({"recipe.lr": [1e-3, 3e-3]}).single().recipe.lr == 1e-3
    assert make({"recipe.lr": [1e-3, 3e-3]}, recipe={"lr": 0.5}).single().recipe.lr == 0.5


def test_local_places_become_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "texts").mkdir()
    axes = {"corpus.path": ["texts", "s3://bucket/texts"], "model.name": ["tiny", "some/model"]}
    found = make(axes, corpus={"source": "text", "path": "x"}).located().sweep.axes
    assert found["corpus.path"] == (str(tmp_path / "texts"), "s3://bucket/texts")
    assert found["model.name"] == ("tiny", "some/model")


def test_names_are_what_file_systems_take() -> None:
    axes = (("model.dtype", "float32"), ("activations.dtype", "int8"), ("corpus.path", "/a b/ü" + "x" * 90))
    assert short_names(axes) == {"model.dtype": "model.dtype", "activations.dtype": "activations.dtype"} | {
        "corpus.path": "path"
    }
    name = axes_name(axes)
    assert name.startswith("-model.dtype-float32-activations.dtype-int8-path-xxxx") and len(name) <= 120
    assert name != axes_name((*axes[:2], ("corpus.path", "/a b/ü" + "x" * 91)))
    assert axes_name((("recipe.betas", (0.9, 0.99)), ("recipe.k_aux", None))) == "-betas-0.9-0.99-k_aux-default"
    many = tuple((f"recipe.{letter * 20}", 1) for letter in "abcdefgh")
    assert len(axes_name(many)) == 120 and axes_name(many) != axes_name((*many[:-1], (many[-1][0], 2)))
