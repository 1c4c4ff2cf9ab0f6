"""The sizes of a language model that determine its cost, found without loading it and without a network."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dmsae_ray.errors import ConfigError


@dataclass(frozen=True)
class ModelSize:
    """Sizes of a decoder-only transformer with grouped-query attention and a gated MLP, such as Gemma 2."""

    hidden: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    mlp: int
    vocab: int

    @property
    def block_weights(self) -> int:
        """Number of matrix weights in one block: q, o; k, v; gate, up, down."""
        attention = 2 * self.hidden * self.heads * self.head_dim + 2 * self.hidden * self.kv_heads * self.head_dim
        return attention + 3 * self.hidden * self.mlp


# Copied from the models' own config.json, for machines that have not downloaded them.
KNOWN = {
    "google/gemma-2-2b": ModelSize(2304, 26, 8, 4, 256, 9216, 256_000),
    "google/gemma-2-9b": ModelSize(3584, 42, 16, 8, 256, 14_336, 256_000),
    "tiny": ModelSize(64, 4, 4, 2, 16, 192, 1024),
}


def model_size(name: str, revision: str | None = None) -> ModelSize:
    """Return the sizes of `model.name`, from a local folder or the Hub cache, else from the table of known models.

    Raises:
        ConfigError: The model is neither on this machine nor in the table, or its config.json is not usable.
    """
    config = _config(name, revision)
    if config is None:
        if name not in KNOWN:
            raise ConfigError(
                f"model.name is '{name}'; its sizes are not known here: give a local folder with a config.json, "
                f"download it once, or take one of {', '.join(KNOWN)}"
            )
        return KNOWN[name]
    config = config.get("text_config", config)
    sizes = {size: _first(config, names) for size, names in _NAMES.items()}
    missing = [size for size, value in sizes.items() if value is None and size not in ("kv_heads", "head_dim", "mlp")]
    if missing:
        raise ConfigError(
            f"model.name is '{name}'; its config.json gives no usable {' or '.join(_NAMES[missing[0]])}: "
            "a decoder-only transformer is needed"
        )
    hidden, heads = sizes["hidden"] or 0, sizes["heads"] or 1
    return ModelSize(
        hidden=hidden,
        layers=sizes["layers"] or 0,
        heads=heads,
        kv_heads=sizes["kv_heads"] or heads,
        head_dim=sizes["head_dim"] or hidden // heads,
        mlp=sizes["mlp"] or 4 * hidden,
        vocab=sizes["vocab"] or 0,
    )


# The names that the configurations of transformers use for the same size.
_NAMES = {
    "hidden": ("hidden_size", "n_embd", "d_model"),
    "layers": ("num_hidden_layers", "n_layer", "num_layers"),
    "heads": ("num_attention_heads", "n_head", "num_heads"),
    "kv_heads": ("num_key_value_heads",),
    "head_dim": ("head_dim",),
    "mlp": ("intermediate_size", "n_inner", "ffn_dim"),
    "vocab": ("vocab_size",),
}


def _first(config: dict[str, Any], names: tuple[str, ...]) -> int | None:
    """Return the first value under `names` that is a positive whole number."""
    values = (config.get(name) for name in names)
    return next((value for value in values if isinstance(value, int) and value > 0), None)


def _config(name: str, revision: str | None) -> dict[str, Any] | None:
    path = config_file(name, revision)
    if path is None:
        return None
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        raise ConfigError(f"model.name is '{name}'; {path.name} there is not readable JSON") from None
    return config if isinstance(config, dict) else None


def config_file(name: str, revision: str | None = None) -> Path | None:
    """Return a model's config.json if it is on this machine: in a local folder, or in the Hub's cache."""
    if name == "tiny":
        return None
    path = Path(name).expanduser() / "config.json"
    if not path.is_file():
        from huggingface_hub import try_to_load_from_cache
        from huggingface_hub.errors import HFValidationError

        try:
            cached = try_to_load_from_cache(name, "config.json", revision=revision)
        except HFValidationError:
            cached = None
        path = Path(cached) if isinstance(cached, str) else path
    return path if path.is_file() else None
