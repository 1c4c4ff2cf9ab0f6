"""Integrated gradients: closed forms where the loss is a quadratic, completeness and autograd on a language model."""

from collections.abc import Iterator
from dataclasses import dataclass

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.functional import cross_entropy

from dmsae_ray.errors import ConfigError, DataError
from dmsae_ray.evaluation import SplicedContexts, Units, ablation, integrated_gradients
from dmsae_ray.lm import Tap
from dmsae_ray.sae import MatryoshkaSAE

from .conftest import CONTEXTS, T

D, M = 6, 12


@dataclass
class Quadratic:
    """Single tokens, each with the loss (x - a)^T H (x - a) / 2."""

    seed: int
    tokens: int = 40
    keep: Tensor | None = None

    def __post_init__(self) -> None:
        generator = torch.Generator().manual_seed(self.seed)
        self.x = torch.randn(self.tokens, 1, D, generator=generator)
        self.aim = torch.randn(self.tokens, 1, D, generator=generator)
        root = torch.randn(D, D, generator=generator)
        self.curvature = root @ root.T / D

    @property
    def targets(self) -> int:
        return self.tokens

    def units(self) -> Iterator[Units]:
        for part in torch.arange(self.tokens).split(7):
            yield Units(int(part[0]), self.x[part], None if self.keep is None else self.keep[part])

    def losses(self, numbers: Tensor, x: Tensor) -> Tensor:
        off = x - self.aim[numbers]
        return ((off @ self.curvature) * off).sum(dim=(1, 2)) / 2

    def gradients(self, numbers: Tensor, x: Tensor) -> Tensor:
        return (x - self.aim[numbers]) @ self.curvature


def dictionary(seed: int) -> MatryoshkaSAE:
    made = MatryoshkaSAE(D, M, [4, 8], 2, seed=seed)
    made.theta.fill_(0.4)
    return made


@given(st.integers(0, 1000), st.integers(1, 3), st.sampled_from([M, 4, 0]), st.booleans())
def test_of_a_quadratic_it_is_the_gradient_at_the_middle_of_the_path(
    seed: int, steps: int, stop: int, keeps: bool
) -> None:
    model, sae = Quadratic(seed), dictionary(seed)
    if keeps:
        model.keep = torch.rand(40, 1, generator=torch.Generator().manual_seed(seed)) < 0.3
    x = model.x[:, 0]
    z = sae.encode(x)[:, :stop]
    if model.keep is not None:
        z = torch.where(model.keep, 0.0, z)
    middle = x - (z @ sae.W_dec[:stop]) / 2
    wanted = -(z * (((middle - model.aim[:, 0]) @ model.curvature) @ sae.W_dec[:stop].T)).sum(dim=0) / 40
    found = integrated_gradients(model, sae, stop=stop, steps=steps)
    torch.testing.assert_close(found.float(), wanted, rtol=1e-4, atol=1e-5)
    without = x - z @ sae.W_dec[:stop]
    numbers = torch.arange(40)
    rise = (model.losses(numbers, without[:, None]) - model.losses(numbers, model.x)).sum() / 40
    assert float(found.sum()) == pytest.approx(float(rise), rel=1e-3, abs=1e-4)


def test_a_latent_alone_has_its_ablation() -> None:
    """With one latent in the path there is nothing else that could share what it does."""
    model, sae = Quadratic(3), dictionary(3)
    found = integrated_gradients(model, sae, stop=1)
    torch.testing.assert_close(found, ablation(model, sae, stop=1, keep_error=True), rtol=1e-4, atol=1e-6)
    assert abs(float(found[0])) > 1e-3


@pytest.mark.parametrize("expected", [False, True])
def test_gradients_of_a_language_model_are_those_of_autograd(tap: Tap, tokens: Tensor, expected: bool) -> None:
    counts = torch.rand(CONTEXTS, T, generator=torch.Generator().manual_seed(1)) < 0.8
    model = SplicedContexts(tap, tokens, loss_mask=counts, expected=expected, batch=2)
    numbers = torch.tensor([3, 1])
    x = 0.9 * tap.activations(tokens[numbers]).float() + 0.1
    found = model.gradients(numbers, x)
    leaf = x.clone().requires_grad_(True)
    assert tap._head is not None
    logits = tap._head(tap._run(tokens[numbers], lambda own: leaf))[:, :-1].double()
    of_text = tokens[numbers][:, 1:]
    with torch.no_grad():
        clean = tap._head(tap._run(tokens[numbers], lambda own: own))[:, :-1].double().softmax(dim=-1)
    targets = clean.flatten(0, 1) if expected else of_text.flatten()
    loss = cross_entropy(logits.flatten(0, 1), targets, reduction="none")[counts[numbers][:, :-1].flatten()].sum()
    (wanted,) = torch.autograd.grad(loss, leaf)
    torch.testing.assert_close(found, wanted, rtol=1e-3, atol=1e-5)
    assert float(model.losses(numbers, x).sum()) == pytest.approx(float(loss.detach()), rel=1e-5)


def test_on_a_language_model_the_latents_share_out_the_whole_rise(tap: Tap, tokens: Tensor) -> None:
    sae = MatryoshkaSAE(tap.d_model, 20, [8, 12], 4, seed=2)
    x = tap.activations(tokens).float()
    sae.b_dec.data.copy_(x.reshape(-1, tap.d_model).mean(dim=0))
    sae.theta.fill_(float(x.norm(dim=-1).mean()) * 0.05)
    keep = torch.rand(CONTEXTS, T, generator=torch.Generator().manual_seed(4)) < 0.2
    model = SplicedContexts(tap, tokens, keep=keep, expected=True, batch=2)
    z = sae.encode(x.reshape(-1, tap.d_model)).masked_fill(keep.reshape(-1, 1), 0)
    without = x - (z @ sae.W_dec).reshape(x.shape)
    numbers = torch.arange(CONTEXTS)
    rise = float((model.losses(numbers, without) - model.losses(numbers, x)).sum()) / model.targets
    found = integrated_gradients(model, sae, steps=24)
    assert float(found.sum()) == pytest.approx(rise, rel=0.02) and rise > 0.01
    never = (z > 0).sum(dim=0) == 0
    assert bool((found[never] == 0).all())


def test_bad_input_is_one_line() -> None:
    model, sae = Quadratic(0), dictionary(0)
    with pytest.raises(ConfigError, match=r"^latents: 0..13 are not within 0..12$"):
        integrated_gradients(model, sae, stop=13)
    with pytest.raises(ConfigError, match=r"^steps: 0 must be at least 1$"):
        integrated_gradients(model, sae, steps=0)
    model.aim[3] = torch.inf
    with pytest.raises(DataError, match=r"^integrated gradients: a gradient of units 0.. is not finite$"):
        integrated_gradients(model, sae)
    with pytest.raises(DataError, match=r"^integrated gradients: the tokens have no targets to predict$"):
        integrated_gradients(Quadratic(0, tokens=0), sae)
