"""Find and load a language model: the embedded one, one from the Hugging Face Hub, or one in a local folder."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PretrainedConfig

from dmsae_ray.errors import ConfigError, one_line
from dmsae_ray.lm.architecture import soft_caps_attention, truncated
from dmsae_ray.lm.quiet import quiet
from dmsae_ray.lm.tap import Tap
from dmsae_ray.lm.tiny import tiny_model
from dmsae_ray.lm.tiny_recipe import TinyRecipe

DTYPES = {name: getattr(torch, name) for name in ("float32", "bfloat16", "float16", "float64")}
_ALLOWED = "allowed: 'tiny' (embedded), a Hub id such as google/gemma-2-2b, or a local folder with config.json"
# Attention implementations of transformers that do not know soft-capping.
_UNCAPPED = ("sdpa",)


@dataclass(frozen=True)
class ModelInfo:
    """What the configuration alone says about a model.

    Attributes:
        d_model: width of the residual stream.
        n_layers: number of blocks.
        vocab_size: number of tokens in the vocabulary.
        architecture: transformers' model type, such as 'gemma2'.
        max_context: tokens for which its positions are made; None if the configuration does not say it.
    """

    d_model: int
    n_layers: int
    vocab_size: int
    architecture: str
    max_context: int | None


def load_tap(
    model: str,
    layer: int,
    device: str | torch.device = "auto",
    dtype: str | torch.dtype = "bfloat16",
    *,
    revision: str | None = None,
    attention: str | None = None,
    full: bool = True,
) -> Tap:
    """Load a language model and tap the residual stream after block `layer`.

    The Hub's own rules give an access token: `HF_TOKEN`, or what `hf auth login` left on this machine. With
    `HF_HUB_OFFLINE=1` only the Hub's cache is used. Code from the Hub is never run.

    Args:
        model: 'tiny', a Hub id, or a local folder.
        layer: number of the block, counted from 0.
        device: 'auto' is CUDA if there is one, otherwise the CPU.
        dtype: dtype of weights and activations.
        revision: commit or tag on the Hub.
        attention: attention implementation of transformers. None or 'auto': eager if attention logits are soft-capped
            (Gemma 2), otherwise what transformers chooses.
        full: False for activations only: layers above the tap are neither read nor moved to the device.

    Raises:
        ConfigError: the model is unknown or incomplete, has no such layer, or the attention implementation would change
            it.
    """
    config = _config(model, revision)
    info = _info(config)
    _check_layer(model, layer, info.n_layers)
    chosen = _attention(model, attention, config)
    tokenizer = load_tokenizer(model, revision)
    if not full:
        config = truncated(config, layer + 1)
    weights = _weights(model, revision, config, _dtype(dtype), chosen)
    tap_model: Any = weights if full else _without_head(weights)
    where = torch.device(("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device)
    return Tap(tap_model.to(where), tokenizer, layer, name=model, n_layers=info.n_layers, full=full)


def describe_model(model: str, layer: int | None = None, *, revision: str | None = None) -> ModelInfo:
    """Return what a model's configuration says; no weights are read. If `layer` is given, it is checked.

    Raises:
        ConfigError: the model is unknown or has no such layer.
    """
    if model == "tiny":  # no files are needed, so a model that is not made yet is not trained here
        recipe = TinyRecipe()
        info = ModelInfo(recipe.hidden, recipe.layers, recipe.vocab_size, "gemma2", recipe.context)
    else:
        info = _info(_config(model, revision))
    if layer is not None:
        _check_layer(model, layer, info.n_layers)
    return info


def load_tokenizer(model: str, revision: str | None = None) -> Any:
    """Return the model's tokenizer (of transformers).

    Raises:
        ConfigError: the model is unknown or has no tokenizer.
    """
    with _told_in_one_line(model, "tokenizer"), quiet():
        tokenizer = AutoTokenizer.from_pretrained(_place(model), revision=revision)
        # Without tokenizer files, transformers makes a tokenizer of the right class with special tokens only.
        if len(tokenizer) < 32:
            raise ValueError(f"it has {len(tokenizer)} tokens; tokenizer.json is missing")
    return tokenizer


def _config(model: str, revision: str | None) -> PretrainedConfig:
    with _told_in_one_line(model, "configuration"), quiet():
        config: PretrainedConfig = AutoConfig.from_pretrained(_place(model), revision=revision)
    return config


def _weights(
    model: str, revision: str | None, config: PretrainedConfig, dtype: torch.dtype, attention: str | None
) -> Any:
    with _told_in_one_line(model, "weights"), quiet():
        auto: Any = AutoModelForCausalLM
        loaded, report = auto.from_pretrained(
            _place(model),
            config=config,
            revision=revision,
            dtype=dtype,
            attn_implementation=attention,
            output_loading_info=True,
        )
    # transformers fills weights that a checkpoint lacks with random numbers.
    missing = sorted(report["missing_keys"])
    if missing:
        raise ConfigError(f"model.name '{model}' lacks weights of {len(missing)} tensors, as {missing[0]}; {_ALLOWED}")
    return loaded


def _without_head(model: Any) -> Any:
    """Return the text decoder alone, so that heads and vision towers stay off the device."""
    return model.get_decoder()


def _info(config: PretrainedConfig) -> ModelInfo:
    text: Any = config.get_text_config()
    sizes = int(text.hidden_size), int(text.num_hidden_layers), int(text.vocab_size)
    return ModelInfo(*sizes, config.model_type, getattr(text, "max_position_embeddings", None))


def _check_layer(model: str, layer: int, n_layers: int) -> None:
    if not 0 <= layer < n_layers:
        raise ConfigError(f"model.layer is {layer}; '{model}' has the layers 0..{n_layers - 1}")


def _attention(model: str, attention: str | None, config: PretrainedConfig) -> str | None:
    capped = soft_caps_attention(config)
    if attention in (None, "auto"):
        return "eager" if capped else None
    if capped and attention in _UNCAPPED:
        raise ConfigError(
            f"model.attention is '{attention}'; '{model}' soft-caps its attention logits, which '{attention}' leaves "
            "out; allowed: 'auto', 'eager', 'flash_attention_2', 'flex_attention'"
        )
    return attention


def _dtype(dtype: str | torch.dtype) -> torch.dtype:
    if isinstance(dtype, torch.dtype):
        return dtype
    if dtype not in DTYPES:
        raise ConfigError(f"model.dtype is '{dtype}'; allowed: {', '.join(DTYPES)}")
    found: torch.dtype = DTYPES[dtype]
    return found


def _place(model: str) -> str:
    """Return what transformers is given: an existing folder, or a Hub id."""
    if model == "tiny":
        return str(tiny_model())
    folder = Path(model).expanduser()
    if folder.is_dir():
        if not (folder / "config.json").is_file():
            raise ConfigError(f"model.name '{model}' is a folder without config.json; {_ALLOWED}")
        return str(folder)
    if model.startswith((".", "~", os.sep)) or model.count("/") > 1 or not model:
        raise ConfigError(f"model.name '{model}': there is no such folder; {_ALLOWED}")
    return model


@contextmanager
def _told_in_one_line(model: str, what: str) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError, KeyError, RuntimeError, ImportError, SafetensorError) as error:
        raise ConfigError(
            f"model.name '{model}': its {what} cannot be loaded ({one_line(str(error), 160)}); {_ALLOWED}"
        ) from None
