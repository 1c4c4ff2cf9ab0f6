"""The language model as SAEBench takes one: TransformerLens's own where it knows the model, else its bridge."""

from typing import Any

import torch
from transformer_lens import HookedTransformer
from transformer_lens.loading_from_pretrained import get_official_model_name, get_pretrained_model_config
from transformer_lens.model_bridge import TransformerBridge


def is_official(name: str) -> bool:
    """Return whether TransformerLens has weights of this name converted as the benchmark uses them."""
    try:
        get_official_model_name(name)
    except ValueError:
        return False
    return True


def width(name: str) -> int:
    """Return the width of the residual stream of a model that TransformerLens knows; only its config is read."""
    found: int = get_pretrained_model_config(name).d_model
    return found


def load_official(name: str, revision: str, device: str, dtype: torch.dtype) -> Any:
    """Load a model that TransformerLens knows, as SAEBench does, but at a revision: by itself it would take the newest.

    Args:
        name: a name or id of the model.
        revision: of the Hub.
        device: where it computes.
        dtype: of its weights.
    """
    return HookedTransformer.from_pretrained_no_processing(name, device=device, dtype=dtype, revision=revision)


def load(name: str, revision: str | None, key: str, device: str, dtype: torch.dtype) -> Any:
    """Load a model that TransformerLens does not know by name: a local folder, or any model of the Hub.

    Args:
        name: the folder, or Hub id.
        revision: of the Hub.
        key: what SAEBench calls the model; it becomes part of the names of files.
        device: where it computes.
        dtype: of its weights.
    """
    model = TransformerBridge.boot_transformers(name, device=device, dtype=dtype, revision=revision)
    model.cfg.model_name = key
    if model.tokenizer.pad_token is None:
        model.tokenizer.pad_token = model.tokenizer.eos_token
    return model


class Always:
    """Stands for `HookedTransformer` in SAEBench's modules, and gives a model that is loaded already."""

    def __init__(self, model: Any) -> None:
        self._model = model

    def from_pretrained_no_processing(self, *_: Any, **__: Any) -> Any:
        """Return the model."""
        return self._model


def put_into(modules: list[Any], model: Any) -> None:
    """Let SAEBench's modules use a model that is loaded already."""
    for module in modules:
        if getattr(module, "HookedTransformer", None) is HookedTransformer:
            module.HookedTransformer = Always(model)
