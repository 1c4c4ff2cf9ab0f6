"""What this room asks of the language model; imported only in the processes that need it."""

from functools import lru_cache
from typing import TYPE_CHECKING, Any

from dmsae_ray.config import ModelSettings
from dmsae_ray.errors import ConfigError

if TYPE_CHECKING:
    from dmsae_ray.lm import Tap


def open_tap(model: ModelSettings, *, full: bool) -> "Tap":
    """The language model of the configuration; without the layers above the tap unless `full`."""
    from dmsae_ray.lm import load_tap

    return load_tap(
        model.name,
        model.layer,
        "auto",
        model.dtype,
        revision=model.revision,
        attention=model.attention,
        full=full,
    )


@lru_cache(maxsize=2)
def open_tokenizer(name: str, revision: str | None) -> Any:
    """The model's tokenizer (transformers), once a process."""
    from dmsae_ray.lm import load_tokenizer

    return load_tokenizer(name, revision)


def check_model(model: ModelSettings, context: int) -> int:
    """Width of the model's residual stream, from its configuration only.

    Raises:
        ConfigError: unknown model, a layer that it does not have, or a `context` longer than it can read.
    """
    from dmsae_ray.lm import describe_model

    info = describe_model(model.name, model.layer, revision=model.revision)
    if info.max_context is not None and context > info.max_context:
        raise ConfigError(f"corpus.context is {context}; model.name '{model.name}' reads at most {info.max_context}")
    return info.d_model
