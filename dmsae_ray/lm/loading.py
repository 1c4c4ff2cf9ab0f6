"""Load a language model: the embedded one, one from the Hugging Face Hub, or one in a local folder."""

from typing import Any

import torch
from transformers import AutoModelForCausalLM, PretrainedConfig

from dmsae_ray.errors import ConfigError
from dmsae_ray.lm.architecture import soft_caps_attention, truncated
from dmsae_ray.lm.description import ALLOWED, check_layer, info_of, place_of, read_config, told_in_one_line
from dmsae_ray.lm.quiet import quiet
from dmsae_ray.lm.tap import Tap
from dmsae_ray.lm.tokenizer import load_tokenizer

DTYPES = {name: getattr(torch, name) for name in ("float32", "bfloat16", "float16", "float64")}
# Attention implementations of transformers that do not know soft-capping.
_UNCAPPED = ("sdpa",)


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
    config = read_config(model, revision)
    info = info_of(config)
    check_layer(model, layer, info.n_layers)
    chosen = _attention(model, attention, config)
    tokenizer = load_tokenizer(model, revision)
    if not full:
        config = truncated(config, layer + 1)
    weights = _weights(model, revision, config, _dtype(dtype), chosen)
    tap_model: Any = weights if full else _without_head(weights)
    where = torch.device(("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device)
    return Tap(tap_model.to(where), tokenizer, layer, name=model, n_layers=info.n_layers, full=full)


def _weights(
    model: str, revision: str | None, config: PretrainedConfig, dtype: torch.dtype, attention: str | None
) -> Any:
    with told_in_one_line(model, "weights"), quiet():
        auto: Any = AutoModelForCausalLM
        loaded, report = auto.from_pretrained(
            place_of(model),
            config=config,
            revision=revision,
            dtype=dtype,
            attn_implementation=attention,
            output_loading_info=True,
        )
    # transformers fills weights that a checkpoint lacks with random numbers.
    missing = sorted(report["missing_keys"])
    if missing:
        raise ConfigError(f"model.name '{model}' lacks weights of {len(missing)} tensors, as {missing[0]}; {ALLOWED}")
    return loaded


def _without_head(model: Any) -> Any:
    """Return the text decoder alone, so that heads and vision towers stay off the device."""
    return model.get_decoder()


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
