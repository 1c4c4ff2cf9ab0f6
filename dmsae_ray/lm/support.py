"""Whether a model can be tapped after a layer: found out on torch's device 'meta', from its configuration alone."""

import copy
import json
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, AutoModelForCausalLM, PretrainedConfig

from dmsae_ray.errors import ConfigError, one_line
from dmsae_ray.lm.architecture import soft_caps_attention
from dmsae_ray.lm.description import NO_CODE, check_layer, info_of, read_config
from dmsae_ray.lm.quiet import quiet
from dmsae_ray.lm.tap import Tap

NEEDED = "needed: a decoder-only causal language model whose blocks pass on one stream [n, t, d_model]"
_TOKENS = 8
aten = torch.ops.aten
_supported: set[tuple[Any, ...]] = set()  # what this process has found good: a run asks several times
# Attention implementations of transformers that do not know soft-capping.
_UNCAPPED = ("sdpa",)


def check_tap(
    model: str,
    layer: int,
    dtype: str = "bfloat16",
    *,
    revision: str | None = None,
    attention: str | None = None,
    name: str | None = None,
) -> None:
    """Check that a model has the layer and can be tapped after it; see `check_architecture`.

    Args:
        model: 'tiny', a Hub id, or a local folder with config.json; of 'tiny', which is supported, nothing is read.
        layer: number of the block, counted from 0.
        dtype: dtype in which the model is to run.
        revision: commit or tag on the Hub.
        attention: attention implementation; None is 'auto'.
        name: how messages name the model; None: as `model`.

    Raises:
        ConfigError: the model is unknown, has no such layer, or cannot be tapped there; one line.
    """
    if model == "tiny":
        return
    config = read_config(model, revision)
    check_layer(name or model, layer, info_of(config).n_layers)
    check_attention(name or model, attention, config)
    check_architecture(name or model, config, layer, getattr(torch, dtype))


def check_attention(model: str, attention: str | None, config: PretrainedConfig) -> None:
    """Raise ConfigError if an attention implementation leaves the soft-capping of the model out."""
    if attention in _UNCAPPED and soft_caps_attention(config):
        raise ConfigError(
            f"model.attention is '{attention}'; '{model}' soft-caps its attention logits, which '{attention}' leaves "
            "out; allowed: 'auto', 'eager', 'flash_attention_2', 'flex_attention'"
        )


def check_architecture(model: str, config: PretrainedConfig, layer: int, dtype: torch.dtype = torch.bfloat16) -> None:
    """Check that a tap of the model after `layer` gives activations, gradients and losses.

    The whole model is made and run on the device 'meta', where tensors have shapes and no values: nothing is read but
    the configuration, and no memory is taken. Where a model's code needs values that 'meta' cannot give (JetMoE), only
    what was found until then is judged.

    Args:
        model: its name, for the message.
        config: its configuration.
        layer: the block to tap.
        dtype: dtype in which it is to run.

    Raises:
        ConfigError: it is no causal language model, its parts are not found, the block does not run once a token, or
            the stream has another shape; one line that says which.
    """
    given = (model, json.dumps(config.to_dict(), sort_keys=True, default=str), layer, dtype)
    if given in _supported:
        return
    if type(config) not in MODEL_FOR_CAUSAL_LM_MAPPING:
        raise _refusal(model, config, "transformers has no causal language model of this type")
    if getattr(config, "is_encoder_decoder", False):
        raise _refusal(model, config, "it has an encoder and a decoder")
    if getattr(config, "causal", True) is False or getattr(config, "attn_type", None) == "bi":  # XLM, XLNet
        raise _refusal(model, config, "its attention sees later tokens too")
    with _told(model, config):
        tap = Tap(_made(config, dtype), None, layer, name=model, n_layers=0, full=True)
        seen = _Seen(tap)
        with suppress(_ValueNeeded):
            seen.run()
    reason = seen.reason()
    if reason is not None:
        raise _refusal(model, config, reason)
    _supported.add(given)


def _refusal(model: str, config: PretrainedConfig, reason: str) -> ConfigError:
    return ConfigError(f"model.name '{model}' ({config.model_type}) is not supported: {reason}; {NEEDED}")


class _ValueNeeded(Exception):
    """A model's code needs the value of a tensor that has none."""


class _Seen:
    """What runs in a model on 'meta' when it is given tokens."""

    def __init__(self, tap: Tap) -> None:
        self.tap = tap
        self.runs: Counter[int] = Counter()
        self.shape: list[int] | None = None
        self.logits: list[int] | None = None
        self.two_sided = False
        self.finished = False

    def run(self) -> None:
        """Run the model once and note what it does.

        Raises:
            _ValueNeeded: its code needs values.
        """
        tokens = torch.zeros(1, _TOKENS, dtype=torch.int64, device="meta")
        try:
            with self._watching(), torch.no_grad(), _NoValues():  # type: ignore[no-untyped-call]
                hidden = self.tap._run(tokens, self._at_tap)
                self.logits = list(self.tap._whole()(hidden.reshape(1, -1, hidden.shape[-1])).shape)
        except (NotImplementedError, RuntimeError) as error:
            if "meta" in str(error):
                raise _ValueNeeded from error
            raise
        self.finished = True

    def reason(self) -> str | None:
        """Return why the model is not supported; None: it is."""
        layer, wanted = self.tap.layer, [1, _TOKENS, self.tap.d_model]
        if self.two_sided:
            return "its attention sees later tokens too"
        if self.shape is not None and self.shape != wanted:
            return f"the stream after block {layer} is {self.shape} for {wanted[:2]} tokens, not {wanted}"
        if self.finished and self.runs[layer] != 1:
            return f"its block {layer} runs {self.runs[layer]} times a token"
        if self.logits is not None and self.logits[:2] != wanted[:2]:
            return f"its head gives logits {self.logits} for {wanted[:2]} tokens"
        return None

    def _at_tap(self, x: Tensor) -> Tensor:
        self.shape = list(x.shape)
        return x

    @contextmanager
    def _watching(self) -> Iterator[None]:
        handles: list[Any] = []
        for index, block in enumerate(self.tap.blocks):
            handles.append(block.register_forward_pre_hook(lambda *_, index=index: self.runs.update([index])))
            for module in block.modules():
                if getattr(module, "is_causal", None) is False:
                    handles.append(module.register_forward_pre_hook(self._not_causal, with_kwargs=True))
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _not_causal(self, _: nn.Module, inputs: tuple[Any, ...], named: dict[str, Any]) -> None:
        """Note that an attention over tokens is not causal; one over blocks (Inkling 2) may be what it likes."""
        first = next((x for x in (*inputs, *named.values()) if isinstance(x, Tensor | list | tuple)), None)
        self.two_sided |= isinstance(first, Tensor) and first.dim() == 3 and first.shape[1] == _TOKENS


class _NoValues(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Mode that answers what a model's code asks of the values of a tensor of 'meta': zero, False, or nothing found.

    Models ask whether a mask is all true, or which experts have tokens. The shape of the stream depends on no answer.
    """

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        first = args[0] if args else None
        if isinstance(first, Tensor) and first.is_meta:
            if func is aten._local_scalar_dense.default:
                return torch.zeros((), dtype=first.dtype).item()
            if func is aten.nonzero.default:
                return first.new_empty((0, first.dim()), dtype=torch.int64)
            if func is aten.equal.default:
                return False
        return func(*args, **(kwargs or {}))


def _made(config: PretrainedConfig, dtype: torch.dtype) -> nn.Module:
    """Return the whole model on the device 'meta'."""
    config = copy.deepcopy(config)
    auto: Any = AutoModelForCausalLM
    with quiet(), torch.device("meta"), torch.random.fork_rng(devices=[]):
        made: Any = auto.from_config(config, dtype=dtype, **NO_CODE)
    # The plain loop over experts: kernels for all at once have demands of their own on 'meta'.
    made.config._experts_implementation = "eager"
    found: nn.Module = made
    return found


@contextmanager
def _told(model: str, config: PretrainedConfig) -> Iterator[None]:
    """Context in which any error of a model's code becomes a refusal of one line."""
    try:
        yield
    except ConfigError as error:
        raise _refusal(model, config, str(error)) from None
    except Exception as error:
        raise _refusal(model, config, one_line(f"{type(error).__name__}: {error}", 160)) from None
