"""What this room asks of the language model, loaded only in the processes that need it."""

from functools import lru_cache
from typing import TYPE_CHECKING, Any

from dmsae_ray.activations.files import one_line
from dmsae_ray.config import LanguageModel
from dmsae_ray.errors import ConfigError

if TYPE_CHECKING:
    from dmsae_ray.lm import Tap


def open_tap(model: LanguageModel, *, full: bool) -> "Tap":
    """The language model of the configuration; without the layers above the tap unless `full`."""
    from dmsae_ray.lm import load_tap

    return load_tap(
        model.name,
        model.layer,
        "auto",
        model.dtype,
        revision=model.revision,
        attention=None if model.attention == "auto" else model.attention,
        full=full,
    )


@lru_cache(maxsize=2)
def load_tokenizer(name: str, revision: str | None) -> Any:
    """The model's tokenizer (transformers)."""
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(_place(name), revision=revision)
    except (OSError, ValueError) as error:
        raise ConfigError(f"model.name '{name}' has no tokenizer that can be loaded: {one_line(error)}") from None


def check_model(model: LanguageModel) -> int:
    """Width of the model's residual stream; loads its configuration only.

    Raises:
        ConfigError: unknown model, or a layer that it does not have.
    """
    from transformers import AutoConfig

    try:
        config = AutoConfig.from_pretrained(_place(model.name), revision=model.revision)
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"model.name '{model.name}' cannot be loaded: {one_line(error)}; 'tiny', a Hub id or a folder is allowed"
        ) from None
    text = config.get_text_config()
    if model.layer >= text.num_hidden_layers:
        raise ConfigError(
            f"model.layer is {model.layer}; '{model.name}' has the layers 0..{text.num_hidden_layers - 1}"
        )
    return int(text.hidden_size)


def _place(name: str) -> str:
    if name != "tiny":
        return name
    from dmsae_ray.lm.tiny import tiny_model

    return str(tiny_model())
