"""Config files as text: YAML that is none, and overrides (--set)."""

from pathlib import Path
from typing import Any

import pytest

from dmsae_ray.config.experiment import load_experiment
from dmsae_ray.config.text import apply_override
from dmsae_ray.errors import ConfigError

from .experiments import load_text


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "holds nothing; it must be a mapping"),
        ("- a\n", "holds list; it must be a mapping"),
        ("name: [\n", "is not YAML"),
        ("name: a\nsweep: {}\nsweep: {}\n", "'sweep' is given twice"),
        ("name: a\nsae:\n  k: 1\n  k: 2\n", "'k' is given twice"),
        ("name: \x01\n", "is not YAML"),
    ],
)
def test_a_bad_file_is_one_line(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(ConfigError) as error:
        load_text(tmp_path, text)
    assert said in str(error.value) and "\n" not in str(error.value)
    assert "experiment.yaml" in str(error.value)


def test_a_file_that_is_not_there_or_not_text(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read: No such file"):
        load_experiment(tmp_path / "no.yaml")
    with pytest.raises(ConfigError, match="cannot be read: Is a directory"):
        load_experiment(tmp_path)
    (tmp_path / "bad.yaml").write_bytes(b"\xff\xfe\xff")
    with pytest.raises(ConfigError, match="is not YAML"):
        load_experiment(tmp_path / "bad.yaml")


def test_overrides_set_values_lists_and_whole_sections(tmp_path: Path) -> None:
    experiment = load_text(
        tmp_path,
        "name: test\nsae: {k: 20}\n",
        "sweep.seeds=[0, 1, 2]",
        "sae.k=40",
        "recipe.tokens=1e8",
        "recipe.lr=1e-3",
        "transfer.core_sparsity=[dense]",
        "tracking.uri=http://host:5000/a=b",
        "recipe.k_aux=null",
        "sae.k=41",
    )
    assert experiment.sweep.seeds == (0, 1, 2)
    assert experiment.sae.k == 41
    assert (experiment.recipe.tokens, experiment.recipe.lr, experiment.recipe.k_aux) == (100_000_000, 1e-3, None)
    assert experiment.transfer is not None and experiment.transfer.core_sparsity == ("dense",)
    assert experiment.tracking.uri == "http://host:5000/a=b"


def test_an_override_reaches_behind_the_short_form_of_the_recipe(tmp_path: Path) -> None:
    experiment = load_text(tmp_path, "name: test\nrecipe: saebench\n", "recipe.lr=0.01")
    assert (experiment.recipe.name, experiment.recipe.lr) == ("saebench", 0.01)


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("sae.k", "--set 'sae.k' is not of the form path=value"),
        ("=3", "is not of the form path=value"),
        ("sae..k=3", "is not of the form path=value"),
        ("name.x=3", "'name' is a value, not a section"),
        ("sae.k=[", "the value is not YAML"),
        ("sae.kk=3", "sae.kk is not a setting; did you mean 'sae.k'?"),
        ("sae.k=0", "sae.k is 0; it must be a whole number of at least 1"),
    ],
)
def test_bad_overrides_are_one_line(tmp_path: Path, override: str, said: str) -> None:
    with pytest.raises(ConfigError) as error:
        load_text(tmp_path, "name: test\n", override)
    assert said in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    "text, value",
    [
        ("/a #1", "/a #1"),
        ("#1", "#1"),
        ("s3://b/x #y?z", "s3://b/x #y?z"),
        ("  /a  ", "/a"),
        ("3", 3),
        ("0.001 ", 0.001),
        ("3 # three", "3 # three"),
        ("'/a #1'", "/a #1"),
        ('"a # b"', "a # b"),
        ("[1, 2]", [1, 2]),
        ("{a: [x, y]}", {"a": ["x", "y"]}),
        ("", None),
        ("null", None),
    ],
)
def test_an_override_has_a_value_and_no_comment(text: str, value: object) -> None:
    tree: dict[str, object] = {}
    apply_override(tree, f"output={text}")
    assert tree == {"output": value}


@pytest.mark.parametrize(
    ("path", "text", "value"),
    [
        ("output", "/a: b", "/a: b"),
        ("output", "[x", "[x"),
        ("output", "&a", "&a"),
        ("output", "*a/{b}", "*a/{b}"),
        ("output", "'/a #1'", "/a #1"),
        ("name", "yes", "yes"),
        ("name", "007", "007"),
        ("name", '"1e3"', "1e3"),
        ("model.name", "1.5", "1.5"),
        ("model.revision", "012345", "012345"),
        ("model.revision", "null", None),
        ("corpus.text_field", "a: b", "a: b"),
        ("sae.core_sparsity", "sparse", "sparse"),
        ("output", "'a' b", "'a' b"),
        ("output", "it's", "it's"),
        ("distill.initial_sae", "/a: b", "/a: b"),
        ("distill.initial_sae", "/007 #1", "/007 #1"),
        ("distill.initial_sae", "{4: /a, 8: '/b: c'}", {4: "/a", 8: "/b: c"}),
        ("sae.k", "8", 8),
        ("sweep.k", "[4, 8]", [4, 8]),
    ],
)
def test_an_override_of_a_text_is_taken_as_it_stands(tmp_path: Path, path: str, text: str, value: object) -> None:
    (tmp_path / "a.yaml").write_text("name: a\nmodel: {name: tiny}\n")
    experiment: Any = load_experiment(tmp_path / "a.yaml", [f"{path}={text}"])
    for name in path.split("."):
        experiment = getattr(experiment, name)
    located = str(Path(str(value)).absolute()) if path == "output" else value
    assert (list(experiment) if isinstance(value, list) else experiment) == located


@pytest.mark.parametrize("text", ["[1, 2] # two", "'a' # b", "[1, 2"])
def test_what_stands_behind_a_value_in_brackets_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match=r"^--set 'output=[^\n]*': the value is not YAML"):
        apply_override({}, f"output={text}")


def test_a_text_within_a_mapping_is_taken_as_it_stands(tmp_path: Path) -> None:
    experiment = load_text(tmp_path, "name: a\n", "distill.initial_sae.20=/a: b #1")
    assert experiment.distill.initial_sae == {20: "/a: b #1"}


@pytest.mark.parametrize("as_override", [False, True])
@pytest.mark.parametrize(("text", "number"), [("010", 10), ("[010, 0, 1_000]", [10, 0, 1000]), ("0", 0), ("-0", 0)])
def test_whole_numbers_are_decimal(tmp_path: Path, text: str, number: Any, as_override: bool) -> None:
    # To YAML 1.1, 010 is eight.
    text = text if text.startswith("[") else f"[{text}]"
    file = "name: a\n" if as_override else f"name: a\nsweep: {{seeds: {text}}}\n"
    experiment = load_text(tmp_path, file, *([f"sweep.seeds={text}"] if as_override else []))
    assert list(experiment.sweep.seeds) == (number if isinstance(number, list) else [number])


@pytest.mark.parametrize("text", ["1:30", "0x10", "0b1", "1:30.5"])
def test_a_number_of_another_base_is_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(ConfigError, match=rf'^seed is "{text}"; it must be a whole number'):
        load_text(tmp_path, f"name: a\nseed: {text}\n")
