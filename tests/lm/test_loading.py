"""What cannot be loaded says so in one line; what is loaded is the model that was asked for."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from dmsae_ray.errors import ConfigError
from dmsae_ray.lm.description import ModelInfo, describe_model
from dmsae_ray.lm.loading import load_tap
from dmsae_ray.lm.tiny import tiny_model

from .models import LAYERS, VOCAB, save_random_model


def refusal(model: str, layer: int = 0, **options: object) -> str:
    with pytest.raises(ConfigError) as caught:
        load_tap(model, layer, "cpu", "float32", **options)  # type: ignore[arg-type]
    text = str(caught.value)
    assert "\n" not in text
    return text


@pytest.mark.parametrize("layer", [4, 100, -1])
def test_a_layer_beyond_the_model(layer: int) -> None:
    assert refusal("tiny", layer) == f"model.layer is {layer}; 'tiny' has the layers 0..3"
    with pytest.raises(ConfigError, match=r"layers 0\.\.3"):
        describe_model("tiny", layer)


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    text = refusal(str(tmp_path / "gone"))
    assert text.startswith(f"model.name '{tmp_path / 'gone'}': there is no such folder; allowed: 'tiny'")


def test_a_folder_without_a_model(tmp_path: Path) -> None:
    assert "is a folder without config.json" in refusal(str(tmp_path))


def test_an_unknown_hub_id_without_network() -> None:
    # The Hub client reads its settings once a process.
    code = (
        "from dmsae_ray.lm import load_tap\nfrom dmsae_ray.errors import ConfigError\n"
        "try: load_tap('nobody/no-such-model', 3)\nexcept ConfigError as error: print(error)"
    )
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True)
    (line,) = run.stdout.splitlines()
    assert line.startswith("model.name 'nobody/no-such-model': ")
    assert line.endswith(
        "allowed: 'tiny' (embedded), a Hub id such as google/gemma-2-2b, or a local folder with config.json"
    )
    assert run.stderr == ""


def test_a_damaged_checkpoint(tmp_path: Path) -> None:
    folder = save_random_model("llama", tmp_path / "llama")
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    assert "its weights cannot be loaded" in refusal(str(folder))


def test_a_checkpoint_that_lacks_weights(tmp_path: Path) -> None:
    folder = save_random_model("llama", tmp_path / "llama")
    tensors = load_file(folder / "model.safetensors")
    del tensors["model.layers.1.mlp.up_proj.weight"]
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    assert "lacks weights of 1 tensors, as model.layers.1.mlp.up_proj.weight" in refusal(str(folder))


def test_layers_above_the_tap_need_not_be_there(tmp_path: Path, tokens: Tensor) -> None:
    folder = save_random_model("qwen3", tmp_path / "qwen3")
    want = load_tap(str(folder), 1, "cpu", "float32").activations(tokens)
    tensors = load_file(folder / "model.safetensors")
    lower = {key: value for key, value in tensors.items() if "layers.2." not in key}
    save_file(lower, folder / "model.safetensors", {"format": "pt"})
    assert torch.equal(load_tap(str(folder), 1, "cpu", "float32", full=False).activations(tokens), want)


@pytest.mark.parametrize("name", ["gpt2", "gemma2", "llama"])
def test_a_model_without_a_tokenizer(tmp_path: Path, name: str) -> None:
    folder = save_random_model(name, tmp_path / name, tokenizer=False)
    assert "its tokenizer cannot be loaded" in refusal(str(folder))


def test_an_unknown_architecture(tmp_path: Path, random_models: dict[str, Path]) -> None:
    folder = tmp_path / "model"
    shutil.copytree(random_models["llama"], folder)
    (folder / "config.json").write_text('{"model_type": "no-such-architecture"}')
    assert "its configuration cannot be loaded" in refusal(str(folder))


def test_unknown_dtype_and_attention(random_models: dict[str, Path]) -> None:
    assert "model.attention is 'sdpa'" in refusal(str(random_models["gemma2"]), attention="sdpa")
    assert "nonsense" in refusal(str(random_models["llama"]), attention="nonsense")
    with pytest.raises(ConfigError, match=r"model\.dtype is 'int8'; allowed: float32, bfloat16"):
        load_tap("tiny", 0, "cpu", "int8")


def test_description_needs_no_weights(tmp_path: Path) -> None:
    folder = save_random_model("gemma2", tmp_path / "gemma2", tokenizer=False)
    (folder / "model.safetensors").unlink()
    assert describe_model(str(folder), 2) == ModelInfo(32, LAYERS, VOCAB, "gemma2", 128)


def test_description_of_the_tiny_model_is_that_of_its_checkpoint() -> None:
    tap = load_tap("tiny", 1, "cpu")
    assert describe_model("tiny", 3) == ModelInfo(tap.d_model, tap.n_layers, tap.vocab_size, "gemma2", 64)
    assert json.loads((tiny_model() / "config.json").read_text())["max_position_embeddings"] == 64


def test_ids_of_special_tokens() -> None:
    tap = load_tap("tiny", 2, "cpu", "float32")
    assert (tap.bos_id, tap.eos_id, tap.special_ids) == (2, 1, (0, 1, 2, 3))
    assert (tap.model_name, tap.layer, tap.dtype, tap.device.type) == ("tiny", 2, torch.float32, "cpu")
