"""Gemma-2's block written out in plain PyTorch: the tap's activations have soft-capped attention and short windows."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import gelu

from dmsae_ray.errors import ConfigError
from dmsae_ray.lm.loading import load_tap

from .models import reference


def norm(x: Tensor, weight: Tensor) -> Tensor:
    return x * (x.square().mean(-1, keepdim=True) + 1e-6).rsqrt() * (1 + weight)


def rotated(x: Tensor) -> Tensor:
    """x [n, heads, t, head_dim] turned by position."""
    half = x.shape[-1] // 2
    angle = torch.outer(torch.arange(x.shape[2]).float(), 10000.0 ** (-torch.arange(half) / half))
    a, b = x[..., :half], x[..., half:]
    return torch.cat([a * angle.cos() - b * angle.sin(), b * angle.cos() + a * angle.sin()], -1)


def block(x: Tensor, layer: Any, cap: float | None, window: int | None) -> Tensor:
    n, t, _ = x.shape
    attention, mlp = layer.self_attn, layer.mlp
    h = norm(x, layer.input_layernorm.weight)
    q = rotated((h @ attention.q_proj.weight.T).view(n, t, 4, 8).transpose(1, 2))
    k = rotated((h @ attention.k_proj.weight.T).view(n, t, 2, 8).transpose(1, 2)).repeat_interleave(2, 1)
    v = (h @ attention.v_proj.weight.T).view(n, t, 2, 8).transpose(1, 2).repeat_interleave(2, 1)
    logits = q @ k.transpose(2, 3) * 8**-0.5
    if cap is not None:
        logits = cap * torch.tanh(logits / cap)
    back = torch.arange(t)[:, None] - torch.arange(t)
    seen = back >= 0
    if window is not None:
        seen &= back < window
    weights = logits.masked_fill(~seen, -torch.inf).softmax(-1)
    out = (weights @ v).transpose(1, 2).reshape(n, t, -1) @ attention.o_proj.weight.T
    x = x + norm(out, layer.post_attention_layernorm.weight)
    h = norm(x, layer.pre_feedforward_layernorm.weight)
    h = (gelu(h @ mlp.gate_proj.weight.T, approximate="tanh") * (h @ mlp.up_proj.weight.T)) @ mlp.down_proj.weight.T
    return x + norm(h, layer.post_feedforward_layernorm.weight)


@torch.no_grad()
@pytest.mark.parametrize(
    "attention", [None, "auto", "eager", pytest.param("flex_attention", marks=pytest.mark.slow)]
)  # flex attention is compiled
def test_gemma2_activations_are_those_of_the_formulas(
    random_models: dict[str, Path], tokens: Tensor, attention: str | None
) -> None:
    if attention == "flex_attention" and torch.backends.cpu.get_cpu_capability() != "AVX512":
        # It would be wrong there: NaN, or numbers that change with later tokens.
        with pytest.raises(ConfigError, match="'flex_attention', which PyTorch computes wrongly on a CPU without"):
            load_tap(str(random_models["gemma2"]), 1, "cpu", "float32", attention=attention)
        return
    decoder = reference(random_models["gemma2"]).model
    first, second = decoder.layers[0], decoder.layers[1]
    x = decoder.embed_tokens.weight[tokens] * 32**0.5
    want = block(block(x, first, 2.0, 8), second, 2.0, None)
    got = load_tap(str(random_models["gemma2"]), 1, "cpu", "float32", attention=attention).activations(tokens)
    torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-4)
    # and the caps and windows of this model matter: without them it is another model
    assert float((block(block(x, first, None, 8), second, None, None) - got).abs().max()) > 0.1
    assert float((block(block(x, first, 2.0, None), second, 2.0, None) - got).abs().max()) > 0.1
