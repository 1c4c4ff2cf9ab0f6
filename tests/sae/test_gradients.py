"""Gradients by hand against autograd and finite differences in float64; one step against the reference, any shape."""

import copy
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from dmsae_ray.sae.dead import SilenceCounter
from dmsae_ray.sae.dictionary import MatryoshkaSAE
from dmsae_ray.sae.gradients import Gradients
from dmsae_ray.sae.objective import Objective
from dmsae_ray.sae.ranks import RankGroup
from dmsae_ray.sae.recipe import Recipe
from dmsae_ray.sae.trainer import SAETrainer

from .reference import DenseReference
from .worlds import features, make_sae, recipe, reference_of


def hand_gradients(
    sae: MatryoshkaSAE, x: Tensor, how: Recipe, silent: Tensor
) -> tuple[dict[str, Tensor], Tensor, Tensor]:
    """(gradients by name, loss, counters after the batch)."""
    silence = SilenceCounter(sae.n_latents, how.dead_after_tokens, x.device)
    silence.tokens.copy_(silent)
    weights = how.prefix_weights(len(sae.group_sizes))
    k_aux = how.k_aux or sae.d_model // 2
    objective = Objective(sae, silence, RankGroup(None), prefix_weights=weights, auxk_alpha=how.auxk_alpha, k_aux=k_aux)
    gradients = Gradients(sae)
    loss = objective(x, len(x), gradients)
    return gradients.named(), loss.total, silence.tokens


def autograd(reference: DenseReference, x: Tensor) -> tuple[dict[str, Tensor], Tensor]:
    loss = reference.loss(x)["loss"]
    named = {
        "W_enc": reference.free,
        "b_enc": reference.b_enc,
        "W_dec": reference.W_dec,
        "b_dec": reference.b_dec,
    }
    found = torch.autograd.grad(loss, list(named.values()))
    return dict(zip(named, found, strict=True)), loss.detach()


@st.composite
def situations(draw: st.DrawFn) -> tuple[MatryoshkaSAE, Tensor, Recipe, Tensor]:
    d = draw(st.integers(1, 9))
    sizes = draw(st.lists(st.integers(1, 9), min_size=1, max_size=4))
    n_core = draw(st.integers(0, 6))
    m = sum(sizes) + n_core
    sparsity = draw(st.sampled_from(["dense", "sparse"]))
    k = draw(st.integers(1, max(1, sum(sizes))))
    g = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    core = torch.randn(n_core, d, generator=g) if n_core else None
    sae = MatryoshkaSAE(d, m, sizes, k, core=core, core_sparsity=sparsity, seed=draw(st.integers(0, 99))).double()
    sae.b_enc.data.normal_(generator=g).mul_(0.3)
    sae.b_dec.data.normal_(generator=g).mul_(0.3)
    b = draw(st.sampled_from([1, 2, 3, 17]))
    x = torch.randn(b, d, generator=g, dtype=torch.float64)
    kind = draw(st.sampled_from(["generic", "generic", "tied rows", "nothing fires", "zeros"]))
    if kind == "tied rows":
        x = x[:1].expand(b, d).contiguous()
    elif kind == "nothing fires":
        sae.b_enc.data.sub_(1e3)
    elif kind == "zeros":
        x.zero_()
    # Equal rows leave the residual no variance but rounding, which the auxiliary loss would divide by.
    share_dead = 0.0 if kind in ("tied rows", "zeros") else draw(st.sampled_from([0.0, 0.4, 1.0]))
    silent = torch.where(torch.rand(m, generator=g) < share_dead, 1000, 0)
    k_aux = draw(st.integers(1, 5))
    return sae, x, Recipe(steps=10, dead_after_tokens=500, k_aux=k_aux, auxk_alpha=0.3), silent


@settings(max_examples=150, deadline=None)
@given(situations())
def test_gradients_equal_autograd_of_the_reference(situation: Any) -> None:
    sae, x, how, silent = situation
    reference = reference_of(sae, how, torch.float64)
    reference.silent = silent.clone()
    theirs, loss = autograd(reference, x)
    ours, our_loss, _ = hand_gradients(sae, x, how, silent)
    assert torch.allclose(our_loss, loss, rtol=1e-9, atol=1e-12)
    assert set(ours) == set(theirs)
    for name in theirs:
        assert torch.allclose(ours[name], theirs[name], rtol=1e-7, atol=1e-9), name


@settings(max_examples=60, deadline=None)
@given(situations())
def test_a_step_on_any_shape_equals_the_reference_step(situation: Any) -> None:
    sae, x, how, _ = situation
    how = Recipe(**{**vars(how), "warmup_steps": 0, "threshold_start_step": 0, "lr": 1e-3})
    reference, trainer = reference_of(sae, how, torch.float64), SAETrainer(sae, how)
    for scale in (1.0, 0.7, 1.3):
        theirs, ours = reference.step(x * scale), trainer.step(x * scale)
        assert torch.allclose(ours.loss, theirs["loss"], rtol=1e-6, atol=1e-9)
    assert float(sae.theta) == pytest.approx(reference.theta, rel=1e-4, abs=1e-7)


@pytest.mark.parametrize("options", [{}, {"n_core": 5}, {"n_core": 5, "core_sparsity": "sparse"}], ids=str)
def test_gradients_equal_finite_differences(options: dict[str, Any]) -> None:
    sae = make_sae(d=6, m=30, groups=(6, 10, 14), k=3, **options).double()
    sae.b_enc.data.uniform_(-0.1, 0.1, generator=torch.Generator().manual_seed(1))
    how, x = recipe(dead_after_tokens=500, auxk_alpha=0.0), features(20, 6, 3).double()
    silent = torch.zeros(30, dtype=torch.int64)
    gradients, _, _ = hand_gradients(sae, x, how, silent)
    g = torch.Generator().manual_seed(2)
    for name, offset in (("W_enc", sae.n_core), ("b_enc", 0), ("W_dec", 0), ("b_dec", 0)):
        direction = torch.zeros_like(getattr(sae, name))
        direction[offset:] = torch.randn(direction[offset:].shape, generator=g, dtype=torch.float64)
        losses = []
        for sign in (1, -1):
            moved = copy.deepcopy(sae)
            getattr(moved, name).data.add_(direction, alpha=sign * 1e-6)
            losses.append(float(hand_gradients(moved, x, how, silent)[1]))
        slope = (losses[0] - losses[1]) / 2e-6
        assert slope == pytest.approx(float((gradients[name] * direction[offset:]).sum()), rel=1e-5), name


def test_auxk_gradient_equals_finite_differences() -> None:
    """The target is a constant: the difference is taken of the auxiliary term alone, with the target held."""
    sae = make_sae(d=6, m=30, groups=(10, 20), k=3).double()
    how, x = recipe(dead_after_tokens=500, auxk_alpha=1.0, k_aux=2), features(20, 6, 3).double()
    reference = reference_of(sae, how, torch.float64)
    fired = reference.loss(x)["fired"]
    silent = torch.where(fired, 0, 10_000)
    assert (~fired).sum() > 4
    reference.silent = silent
    with_aux = autograd(reference, x)[0]
    ours, _, tokens = hand_gradients(sae, x, how, silent)
    assert torch.equal(tokens, torch.where(fired, 0, 10_020))
    for name in with_aux:
        assert torch.allclose(ours[name], with_aux[name], rtol=1e-9, atol=1e-11)
    dead_rows = ours["W_dec"][~fired]
    assert float(dead_rows.abs().max()) > 0, "AuxK must reach the dead latents"
