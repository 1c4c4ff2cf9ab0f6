"""Load a language model: the embedded one, one from the Hugging Face Hub, or one in a local folder."""

from functools import partial
from typing import Any

import torch
from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, AutoModelForCausalLM, PretrainedConfig

from dmsae_ray.errors import ConfigError
from dmsae_ray.lm.architecture import cut_class, drop_blocks_above, parts_of, soft_caps_attention
from dmsae_ray.lm.description import ALLOWED, NO_CODE, check_layer, info_of, place_of, read_config, told_in_one_line
from dmsae_ray.lm.quiet import quiet
from dmsae_ray.lm.support import check_architecture, check_attention
from dmsae_ray.lm.tap import Tap
from dmsae_ray.lm.tokenizer import load_tokenizer

DTYPES = {name: getattr(torch, name) for name in ("float32", "bfloat16", "float16", "float64")}
_SAME = 4
"""Tokens in the half of a context that `_check_causal` compares."""


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
    where = torch.device(("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device)
    chosen = _attention(model, attention, config, where)
    if model != "tiny":
        check_architecture(model, config, layer, _dtype(dtype))
    tokenizer = load_tokenizer(model, revision)
    last = None if full else layer
    weights = load_weights(model, revision, config, _dtype(dtype), chosen, last_layer=last)
    # Without the head, and in a model that reads more than text without its towers.
    tap_model: Any = weights if full else parts_of(weights).decoder
    tap = Tap(tap_model.to(where), tokenizer, layer, name=model, n_layers=info.n_layers, full=full)
    if model != "tiny":
        _check_causal(tap)
    return tap


def _check_causal(tap: Tap) -> None:
    """Check that later tokens change nothing: two contexts with the same beginning have the same activations there.

    What `check_architecture` finds by names is found here by numbers.

    Raises:
        ConfigError: they change.
    """
    allowed = [token for token in range(min(tap.vocab_size, 4096)) if token not in tap.special_ids]
    drawn = torch.arange(3 * _SAME) * 37 % len(allowed)
    first, one, other = torch.tensor(allowed)[drawn].view(3, _SAME)
    x = tap.activations(torch.stack([torch.cat([first, one]), torch.cat([first, other])]))[:, :_SAME].float()
    # Experts of a mixture get other batches, which moves last bits.
    if float((x[0] - x[1]).norm()) > 0.02 * float(x[0].norm()):
        raise ConfigError(
            f"model.name '{tap.model_name}' is not supported: its activations at a token change with later tokens; "
            "needed: a decoder-only causal language model"
        )


def load_weights(
    model: str,
    revision: str | None,
    config: PretrainedConfig,
    dtype: torch.dtype,
    attention: str | None = None,
    *,
    last_layer: int | None = None,
    local_only: bool = False,
) -> Any:
    """Return the causal language model of `config`, whole or without its blocks above `last_layer`.

    Their weights are not even read. Where an architecture does not let its blocks be taken before its weights are read
    (Falcon-H1 scales them all when it is made), the whole model is read and its upper blocks are dropped.

    Raises:
        ConfigError: the weights cannot be loaded, or some are missing.
    """
    read = partial(_read, model, revision, config, dtype, attention, local_only=local_only)
    if last_layer is None:
        return read(AutoModelForCausalLM)
    try:
        return read(_cut_auto_model(last_layer))
    except ConfigError:
        weights = read(AutoModelForCausalLM)
    drop_blocks_above(weights, last_layer)
    return weights


def _read(
    model: str,
    revision: str | None,
    config: PretrainedConfig,
    dtype: torch.dtype,
    attention: str | None,
    auto: Any,
    *,
    local_only: bool,
) -> Any:
    with told_in_one_line(model, "weights"), quiet():
        loaded, report = auto.from_pretrained(
            place_of(model),
            config=config,
            revision=revision,
            dtype=dtype,
            attn_implementation=attention,
            output_loading_info=True,
            local_files_only=local_only,
            **NO_CODE,
        )
    # transformers fills weights that a checkpoint lacks with random numbers.
    missing = sorted(report["missing_keys"])
    if missing:
        raise ConfigError(f"model.name '{model}' lacks weights of {len(missing)} tensors, as {missing[0]}; {ALLOWED}")
    return loaded


def _cut_auto_model(layer: int) -> Any:
    """Return transformers' AutoModelForCausalLM, but of models without the blocks above `layer`."""
    whole: Any = MODEL_FOR_CAUSAL_LM_MAPPING

    class Cut:
        def __contains__(self, config_class: Any) -> bool:
            return config_class in whole

        def __getitem__(self, config_class: Any) -> Any:
            found = whole[config_class]
            if isinstance(found, list | tuple):
                return tuple(cut_class(each, layer) for each in found)
            return cut_class(found, layer)

    return type("AutoModelForCausalLM", (AutoModelForCausalLM,), {"_model_mapping": Cut()})


def _attention(model: str, attention: str | None, config: PretrainedConfig, device: torch.device) -> str | None:
    capped = soft_caps_attention(config)
    if attention in (None, "auto"):
        return "eager" if capped else None
    check_attention(model, attention, config)
    # PyTorch 2.13 compiles it wrongly there: activations change with later tokens, or are NaN.
    if attention == "flex_attention" and device.type == "cpu" and torch.backends.cpu.get_cpu_capability() != "AVX512":
        raise ConfigError(
            "model.attention is 'flex_attention', which PyTorch computes wrongly on a CPU without AVX-512; allowed "
            "here: 'auto', 'eager'"
        )
    return attention


def _dtype(dtype: str | torch.dtype) -> torch.dtype:
    if isinstance(dtype, torch.dtype):
        return dtype
    if dtype not in DTYPES:
        raise ConfigError(f"model.dtype is '{dtype}'; allowed: {', '.join(DTYPES)}")
    found: torch.dtype = DTYPES[dtype]
    return found
