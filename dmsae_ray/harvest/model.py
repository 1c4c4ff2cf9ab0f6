"""The language model as the harvest needs it; imported only in the processes that use it."""

from functools import lru_cache
from typing import TYPE_CHECKING, Any

from dmsae_ray.config import ModelSettings

if TYPE_CHECKING:
    from dmsae_ray.lm import Tap


def open_tap(model: ModelSettings, *, full: bool) -> "Tap":
    """Load the language model of the settings.

    Args:
        model: the settings.
        full: False leaves out the layers above the tap, for activations only; gradients need them.
    """
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
    """Return the model's tokenizer (transformers), loaded once per process."""
    from dmsae_ray.lm import load_tokenizer

    return load_tokenizer(name, revision)


def check_model(model: ModelSettings, context: int) -> int:
    """Return the width of the model's residual stream, from its configuration only.

    Args:
        model: the settings.
        context: tokens of a context.

    Raises:
        ConfigError: the model is unknown, does not have the layer, cannot be tapped there, or cannot read a context of
            that length.
    """
    from dmsae_ray.lm import check_context, describe_model

    info = describe_model(model.name, model.layer, revision=model.revision)
    check_context(model.name, context, info)
    if model.name != "tiny":
        from dmsae_ray.lm import check_tap  # it loads transformers' models: two seconds

        check_tap(model.name, model.layer, model.dtype, revision=model.revision, attention=model.attention)
    return info.d_model
