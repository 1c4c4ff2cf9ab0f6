"""Where the parts of a decoder-only transformers model are, whatever names its architecture gives them."""

import copy
from collections import deque
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PretrainedConfig, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutputWithPast

from dmsae_ray.errors import ConfigError


@dataclass(frozen=True)
class Parts:
    """Where the text decoder of a model is, and its blocks.

    Attributes:
        decoder: the module that maps token ids to the hidden states after the final norm.
        blocks: its list of blocks, lowest first.
    """

    decoder: nn.Module
    blocks: nn.ModuleList


def parts_of(model: PreTrainedModel) -> Parts:
    """Find the text decoder and its blocks: `layers` in most models, `h` in GPT-2, `encoder.layer` in BERT.

    The blocks are the list of `num_hidden_layers` modules that lies nearest to the top. In a model that reads more than
    text, the part that transformers names as its decoder is looked through first, and configurations of towers are
    not those of the text: a list in a tower is left out. The decoder is the innermost model that holds the blocks.

    Raises:
        ConfigError: the model has no list of that many blocks.
    """
    config: Any = model.config.get_text_config(decoder=True)
    n_layers = int(config.num_hidden_layers)
    # Of some wrappers, the decoder that transformers names is the wrapper itself.
    named: Any = model
    for root in (named.get_decoder(), model):
        found = _nearest(root, n_layers)
        if found is not None:
            return Parts(*found)
    raise ConfigError(f"{type(model).__name__} has no list of {n_layers} blocks")


def _nearest(root: nn.Module, n_layers: int) -> tuple[nn.Module, nn.ModuleList] | None:
    """Return the nearest list of `n_layers` modules below `root`, after the innermost model around it."""
    waiting = deque([(root, root)])
    while waiting:
        module, model = waiting.popleft()
        for child in module.children():
            if isinstance(child, nn.ModuleList) and len(child) == n_layers and not _is_plain(child):
                return model, child
            if not (isinstance(child, PreTrainedModel) and _is_tower(child)):
                waiting.append((child, child if isinstance(child, PreTrainedModel) else model))
    return None


def _is_plain(modules: nn.ModuleList) -> bool:
    """Return whether the modules are layers of torch, such as one embedding a block, and no blocks."""
    return all(type(module).__module__.startswith("torch.") for module in modules)


def _is_tower(model: PreTrainedModel) -> bool:
    """Return whether a part of a model reads images or sound: its configuration has no vocabulary."""
    return not hasattr(model.config.get_text_config(decoder=True), "vocab_size")


def drop_blocks_above(model: PreTrainedModel, layer: int) -> None:
    """Take the weights from the blocks above `layer`, before or after they are read.

    The configuration stays whole: in some families (Gemma 3n and 4: shared keys and values, embeddings per layer) what
    a block computes depends on how many there are. The blocks stay as shells, because some models ask all of them for
    settings before they run the first.
    """
    blocks = parts_of(model).blocks
    kept = {id(module) for block in blocks[: layer + 1] for module in block.modules()}
    for block in blocks[layer + 1 :]:
        for module in block.modules():
            if id(module) in kept:  # one that blocks share
                continue
            setattr(module, "_is_hf_initialized", True)  # noqa: B010 (transformers would set values)
            names = [*module._parameters, *module._buffers]
            module._parameters.clear()
            module._buffers.clear()
            for name in names:  # RWKV scales the weights of all blocks before it runs the first
                setattr(module, name, torch.empty(0, device="cpu"))
    # Weights of a dropped block that are another one's (Zamba) cannot be tied any more.
    tied: Any = getattr(model, "all_tied_weights_keys", None)
    if tied:
        present = {name for name, _ in model.named_parameters(remove_duplicate=False)}
        present |= {name for name, _ in model.named_buffers(remove_duplicate=False)}
        model.all_tied_weights_keys = {target: source for target, source in tied.items() if {target, source} <= present}


def cut_class(model_class: Any, layer: int) -> Any:
    """Return a class of models that is as `model_class`, but whose models drop their blocks above `layer` when made.

    So a checkpoint's weights above the tap are never read, and need not be there.
    """

    def __init__(self: Any, config: PretrainedConfig, *inputs: Any, **settings: Any) -> None:
        model_class.__init__(self, config, *inputs, **settings)
        drop_blocks_above(self, layer)

    # transformers looks up how to read a checkpoint by the name of the class.
    own = {"__init__": __init__, "__module__": model_class.__module__, "__qualname__": model_class.__qualname__}
    return type(model_class.__name__, (model_class,), own)


def soft_caps_attention(config: PretrainedConfig) -> bool:
    """Return whether attention logits are soft-capped (Gemma 2).

    Attention kernels that do not know soft-capping would compute another model.
    """
    return getattr(config.get_text_config(decoder=True), "attn_logit_softcapping", None) is not None


class LanguageModelHead(nn.Module):
    """Computes logits from the decoder's last hidden states with the architecture's own code.

    It is the same causal-LM module and shares its weights, but its decoder is replaced by one that returns its input.
    So soft-capping (Gemma), logit scales (Cohere, Granite) and biases (GPT-J) need no code here.
    """

    def __init__(self, model: PreTrainedModel, decoder: nn.Module) -> None:
        """Make the head of a causal LM whose text decoder is `decoder`, at whatever depth."""
        super().__init__()
        head = copy.copy(model)
        # nn.Module keeps submodules in a dictionary, which a shallow copy shares with the model.
        head._modules = dict(model._modules)
        for name, child in model.named_children():
            if any(module is decoder for module in child.modules()):
                head._modules[name] = _Given(child)
        self.head = head

    def forward(self, hidden: Tensor) -> Tensor:
        """Return the logits [1, n, vocab] of hidden states [1, n, d_model] that have passed the final norm."""
        logits: Tensor = self.head(inputs_embeds=hidden, use_cache=False).logits
        return logits


class _Given(nn.Module):
    """Stands in for the decoder and gives back what it is given; settings that a head asks for are the decoder's."""

    def __init__(self, real: nn.Module) -> None:
        super().__init__()
        self._real = (real,)  # in a tuple, so that it is no submodule

    def __getattr__(self, name: str) -> Any:
        if name == "decoder":  # OPT's causal LM asks its model for the decoder inside it
            return self
        return getattr(self.__dict__["_real"][0], name)

    def forward(self, *_: Any, inputs_embeds: Tensor | None = None, **__: Any) -> "_Output":
        if inputs_embeds is None:
            raise ConfigError("its head cannot be given the decoder's output")
        return _Output(last_hidden_state=inputs_embeds)


class _Output(BaseModelOutputWithPast):
    """A decoder's output that holds the hidden states only; all other fields are None."""

    def __getattr__(self, name: str) -> None:
        if name.startswith("__"):
            raise AttributeError(name)
        return None
