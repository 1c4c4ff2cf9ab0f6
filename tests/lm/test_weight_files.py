"""A model in a folder whose weights or tokenizer are not there, or not whole, is refused before any are read."""

import json
from pathlib import Path

import pytest

from dmsae_ray.errors import ConfigError
from dmsae_ray.lm.weight_files import check_files, is_configuration_only

from .models import save_random_model


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return save_random_model("gemma2", tmp_path / "model")


def refusal(model: Path) -> str:
    with pytest.raises(ConfigError) as caught:
        check_files(str(model))
    text = str(caught.value)
    assert text.startswith(f"model.name '{model}'") and "\n" not in text and "allowed: 'tiny'" in text
    return text.split(f"'{model}'", 1)[1]


def test_a_whole_model_passes(model: Path) -> None:
    check_files(str(model))
    check_files("tiny")
    check_files("team/on-the-hub")
    assert not is_configuration_only(str(model)) and not is_configuration_only("team/on-the-hub")


def test_weights_that_are_not_there(model: Path) -> None:
    (model / "model.safetensors").rename(model / "consolidated.safetensors")
    assert refusal(model).startswith(" is a folder without weights (model.safetensors or pytorch_model.bin)")


def test_weights_that_are_cut_off(model: Path) -> None:
    weights = model / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])
    assert refusal(model).startswith(" has a file model.safetensors that is truncated or of another format (")


@pytest.mark.parametrize("kind", ["model.safetensors", "pytorch_model.bin"])
def test_a_part_of_the_weights_that_is_not_there(model: Path, kind: str) -> None:
    (model / "model.safetensors").unlink()
    index = model / f"{kind}.index.json"
    index.write_text(json.dumps({"weight_map": {"a": "part-1"}}))
    assert refusal(model).startswith(" lacks the file part-1, which the index of its weights names")
    index.write_text("{")
    assert refusal(model).startswith(f": its {index.name} is no index of weights")


def test_a_tokenizer_that_is_not_there(model: Path) -> None:
    for file in model.glob("token*"):
        file.unlink()
    assert "its tokenizer cannot be loaded" in refusal(model)


def test_a_configuration_alone(model: Path) -> None:
    for file in model.iterdir():
        if file.name != "config.json":
            file.unlink()
    assert is_configuration_only(str(model))
