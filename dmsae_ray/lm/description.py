"""What a model's configuration says, and where its files are; no weights are read.

transformers and its configurations are imported in the functions: the embedded model's sizes need neither.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError

from dmsae_ray.errors import ConfigError, one_line
from dmsae_ray.lm.tiny import tiny_model
from dmsae_ray.lm.tiny_recipe import TinyRecipe

if TYPE_CHECKING:
    from transformers import PretrainedConfig

ALLOWED = "allowed: 'tiny' (embedded), a Hub id such as google/gemma-2-2b, or a local folder with config.json"

NO_CODE: dict[str, Any] = {"trust_remote_code": False}
"""Said to transformers each time: else it asks at the terminal whether to run the code that lies beside a model."""


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


def describe_model(model: str, layer: int | None = None, *, revision: str | None = None) -> ModelInfo:
    """Return what a model's configuration says; no weights are read. If `layer` is given, it is checked.

    Raises:
        ConfigError: the model is unknown or has no such layer.
    """
    if model == "tiny":  # no files are needed, so a model that is not made yet is not trained here
        recipe = TinyRecipe()
        info = ModelInfo(recipe.hidden, recipe.layers, recipe.vocab_size, "gemma2", recipe.context)
    else:
        info = info_of(read_config(model, revision))
    if layer is not None:
        check_layer(model, layer, info.n_layers)
    return info


def read_config(model: str, revision: str | None, *, local_only: bool = False) -> "PretrainedConfig":
    """Return a model's configuration (of transformers); with `local_only` never from the network.

    Raises:
        ConfigError: the model is unknown.
    """
    from transformers import AutoConfig

    from dmsae_ray.lm.quiet import quiet

    with told_in_one_line(model, "configuration"), quiet():
        config: PretrainedConfig = AutoConfig.from_pretrained(
            place_of(model), revision=revision, local_files_only=local_only, **NO_CODE
        )
    return config


def info_of(config: "PretrainedConfig") -> ModelInfo:
    """Return what matters here of a configuration; of a model that reads more than text, of its text part.

    Raises:
        ConfigError: the configuration has no such sizes.
    """
    try:
        text: Any = config.get_text_config(decoder=True)
        sizes = int(text.hidden_size), int(text.num_hidden_layers), int(text.vocab_size)
    except (AttributeError, TypeError, ValueError) as error:
        raise ConfigError(
            f"model.name: a configuration of type '{config.model_type}' has no sizes of a decoder-only language model "
            f"({one_line(str(error), 100)})"
        ) from None
    return ModelInfo(*sizes, config.model_type, getattr(text, "max_position_embeddings", None))


def check_layer(model: str, layer: int, n_layers: int) -> None:
    """Raise ConfigError unless the model has the layer."""
    if not 0 <= layer < n_layers:
        raise ConfigError(f"model.layer is {layer}; '{model}' has the layers 0..{n_layers - 1}")


def check_context(model: str, context: int, info: ModelInfo) -> None:
    """Raise ConfigError unless the model reads contexts of that many tokens."""
    if info.max_context is not None and context > info.max_context:
        raise ConfigError(f"corpus.context is {context}; model.name '{model}' reads at most {info.max_context}")


def place_of(model: str) -> str:
    """Return what transformers is given for a model: an existing folder, or a Hub id.

    Raises:
        ConfigError: it is neither.
    """
    if model == "tiny":
        return str(tiny_model())
    folder = Path(model).expanduser()
    if folder.is_dir():
        if not (folder / "config.json").is_file():
            raise ConfigError(f"model.name '{model}' is a folder without config.json; {ALLOWED}")
        return str(folder)
    if model.startswith((".", "~", os.sep)) or model.count("/") > 1 or not model:
        raise ConfigError(f"model.name '{model}': there is no such folder; {ALLOWED}")
    return model


@contextmanager
def told_in_one_line(model: str, what: str) -> Iterator[None]:
    """Context in which an error of transformers, about `what` of a model, becomes a ConfigError of one line."""
    try:
        yield
    except (OSError, ValueError, KeyError, RuntimeError, ImportError, SafetensorError) as error:
        problem = f"its {what} cannot be loaded ({one_line(str(error), 160)})"
        if "trust_remote_code" in str(error):
            problem = "it needs code of its own, which is never run"
        raise ConfigError(f"model.name '{model}': {problem}; {ALLOWED}") from None
