"""Where the parts of a decoder-only transformers model are, whatever names its architecture gives them."""

import copy
from typing import Any

from torch import Tensor, nn
from transformers import PretrainedConfig, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutputWithPast

from dmsae_ray.errors import ConfigError


def blocks_of(decoder: nn.Module, n_layers: int) -> nn.ModuleList:
    """Return the decoder's list of blocks: `layers` in most models, `h` in GPT-2.

    Raises:
        ConfigError: the decoder has no list of `n_layers` blocks as a direct child.
    """
    for child in decoder.children():
        if isinstance(child, nn.ModuleList) and len(child) == n_layers:
            return child
    raise ConfigError(
        f"model.name: {type(decoder).__name__} has no list of {n_layers} blocks; decoder-only models are allowed"
    )


def truncated(config: PretrainedConfig, n_layers: int) -> PretrainedConfig:
    """Return a copy of the configuration with only the first `n_layers` layers: the weights above are not even read."""
    config = copy.deepcopy(config)
    text: Any = config.get_text_config()
    before = text.num_hidden_layers
    per_layer = {
        key: value for key, value in vars(text).items() if isinstance(value, list | tuple) and len(value) == before
    }
    # Lists first: some configurations check, when the number is set, that the lists have that length.
    for key, value in per_layer.items():
        setattr(text, key, value[:n_layers])
    text.num_hidden_layers = n_layers
    return config


def soft_caps_attention(config: PretrainedConfig) -> bool:
    """Return whether attention logits are soft-capped (Gemma 2).

    Attention kernels that do not know soft-capping would compute another model.
    """
    return getattr(config.get_text_config(), "attn_logit_softcapping", None) is not None


class LanguageModelHead(nn.Module):
    """Computes logits from the decoder's last hidden states with the architecture's own code.

    It is the same causal-LM module and shares its weights, but its decoder is replaced by one that returns its input.
    So soft-capping (Gemma), logit scales (Cohere, Granite) and biases (GPT-J) need no code here.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__()
        head = copy.copy(model)
        # nn.Module keeps submodules in a dictionary, which a shallow copy shares with the model.
        head._modules = dict(model._modules)
        head._modules[model.base_model_prefix] = _Given()
        self.head = head

    def forward(self, hidden: Tensor) -> Tensor:
        """Return the logits [1, n, vocab] of hidden states [1, n, d_model] that have passed the final norm."""
        logits: Tensor = self.head(inputs_embeds=hidden, use_cache=False).logits
        return logits


class _Given(nn.Module):
    @property
    def decoder(self) -> "_Given":
        """The module itself: OPT's causal LM asks its model for the decoder inside it."""
        return self

    def forward(self, *_: Any, inputs_embeds: Tensor, **__: Any) -> "_Output":
        return _Output(last_hidden_state=inputs_embeds)


class _Output(BaseModelOutputWithPast):
    """A decoder's output that holds the hidden states only; all other fields are None."""

    def __getattr__(self, name: str) -> None:
        if name.startswith("__"):
            raise AttributeError(name)
        return None
