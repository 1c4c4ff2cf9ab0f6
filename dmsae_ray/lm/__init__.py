"""The language model: loaded, cut at a layer, read there, and differentiated there; the embedded tiny Gemma-2."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dmsae_ray.lm.loading import ModelInfo, describe_model, load_tap, load_tokenizer
    from dmsae_ray.lm.tap import Tap
    from dmsae_ray.lm.tiny import tiny_model

_PLACES = {
    "ModelInfo": "loading",
    "describe_model": "loading",
    "load_tap": "loading",
    "load_tokenizer": "loading",
    "Tap": "tap",
    "tiny_model": "tiny",
}

__all__ = ["ModelInfo", "Tap", "describe_model", "load_tap", "load_tokenizer", "tiny_model"]


def __getattr__(name: str) -> Any:
    """Import on first use: text and paths are often wanted without torch and transformers."""
    if name not in _PLACES:
        raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
    from importlib import import_module

    return getattr(import_module(f"{__name__}.{_PLACES[name]}"), name)
