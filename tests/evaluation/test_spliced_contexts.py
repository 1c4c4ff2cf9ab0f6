"""Exact ablation on a language model: against plain runs of transformers' own model with an edited residual stream."""

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from dmsae_ray.errors import ConfigError
from dmsae_ray.evaluation import SplicedContexts, ablation
from dmsae_ray.lm import Tap
from dmsae_ray.sae import MatryoshkaSAE

from .conftest import CONTEXTS, T


@pytest.fixture(scope="module")
def masks() -> tuple[Tensor, Tensor]:
    """Tokens that keep their activation, and positions whose next token counts."""
    generator = torch.Generator().manual_seed(1)
    return tuple(torch.rand(CONTEXTS, T, generator=generator) < share for share in (0.2, 0.8))  # type: ignore[return-value]


@pytest.fixture(scope="module")
def sae(tap: Tap, tokens: Tensor) -> MatryoshkaSAE:
    made = MatryoshkaSAE(tap.d_model, 20, [8, 12], 4, seed=2)
    x = tap.activations(tokens).reshape(-1, tap.d_model)
    made.b_dec.data.copy_(x.mean(dim=0))
    made.theta.fill_(float(x.norm(dim=1).mean()) * 0.1)
    return made


def mean_loss(tap: Tap, tokens: Tensor, x: Tensor, counts: Tensor, expected: bool) -> float:
    """By hand: log-probabilities of whole contexts, one after the other, at positions that count."""
    total, targets = 0.0, 0
    for row in range(len(tokens)):

        def logits(edit: Tensor | None, row: int = row) -> Tensor:
            replaced = tap.activations(tokens[row : row + 1]) if edit is None else edit[None]
            hidden = tap._run(tokens[row : row + 1], lambda own: replaced)
            assert tap._head is not None
            return tap._head(hidden)[0].double()

        with torch.no_grad():
            edited, clean = logits(x[row]), logits(None)
        for t in range(T - 1):
            if not counts[row, t]:
                continue
            targets += 1
            log_q = torch.log_softmax(edited[t], dim=0)
            p = torch.softmax(clean[t], dim=0)
            total += float(-(p * log_q).sum()) if expected else float(-log_q[tokens[row, t + 1]])
    return total / targets


@pytest.mark.parametrize("expected", [False, True])
@pytest.mark.parametrize("keep_error", [False, True])
def test_ablation_is_the_difference_of_two_whole_runs(
    tap: Tap, tokens: Tensor, masks: tuple[Tensor, Tensor], sae: MatryoshkaSAE, expected: bool, keep_error: bool
) -> None:
    keep, counts = masks
    model = SplicedContexts(tap, tokens, keep=keep, loss_mask=counts, expected=expected, batch=2)
    found = ablation(model, sae, stop=6, batch=3, keep_error=keep_error)
    x = tap.activations(tokens)
    z = sae.encode(x.reshape(-1, tap.d_model)).reshape(CONTEXTS, T, -1)
    base = x if keep_error else torch.where(keep[..., None], x, sae.decode(z))
    whole = mean_loss(tap, tokens, base, counts, expected)
    assert int((z[..., :6] > 0).any(dim=(0, 1)).sum()) >= 3
    for i in range(6):
        gone = torch.where(keep[..., None], 0.0, z[..., i, None] * sae.W_dec[i])
        wanted = mean_loss(tap, tokens, base - gone, counts, expected) - whole
        assert float(found[i]) == pytest.approx(wanted, abs=2e-5)


def test_losses_of_contexts_add_up_and_do_not_depend_on_each_other(tap: Tap, tokens: Tensor) -> None:
    x = tap.activations(tokens)
    each = tap.losses(tokens, x)
    total, _ = tap.loss(tokens)
    assert float(each.sum()) == pytest.approx(float(total), rel=1e-6)
    assert each[2:4].tolist() == pytest.approx(tap.losses(tokens[2:4], x[2:4]).tolist(), rel=1e-5)
    clean = tap.losses(tokens, x, like=tap.final(tokens))
    assert bool((clean < each + 1e9).all()) and not torch.allclose(clean, each)


def test_the_expected_loss_is_least_at_the_model_itself(tap: Tap, tokens: Tensor) -> None:
    """Cross-entropy of p with q is least where q is p: Gibbs. Of the text's own tokens it need not be."""
    x, final = tap.activations(tokens), tap.final(tokens)
    best = tap.losses(tokens, x, like=final)
    generator = torch.Generator().manual_seed(3)
    for scale in (0.01, 0.1, 1.0):
        moved = x + scale * torch.randn(x.shape, generator=generator)
        assert bool((tap.losses(tokens, moved, like=final) > best).all())


def test_probabilities_written_out(tap: Tap, tokens: Tensor) -> None:
    assert tap._head is not None
    with torch.no_grad():
        logits = tap._head(tap.final(tokens))[:, :-1].double()
    wanted = [
        float(cross_entropy(row, target, reduction="sum")) for row, target in zip(logits, tokens[:, 1:], strict=True)
    ]
    assert tap.losses(tokens, tap.activations(tokens)).tolist() == pytest.approx(wanted, rel=1e-5)


def test_what_does_not_fit_is_refused(tap: Tap, tokens: Tensor) -> None:
    with pytest.raises(ConfigError, match=r"^keep: shape \[1, 24\] is not that of the tokens, \[5, 24\]$"):
        SplicedContexts(tap, tokens, keep=torch.ones(1, T, dtype=torch.bool))
    with pytest.raises(ConfigError, match=r"^batch: 0 must be at least 1$"):
        SplicedContexts(tap, tokens, batch=0)
    with pytest.raises(ValueError, match=r"x has shape \[1, 24, 64\]; it must be \[5, 24, 64\]"):
        tap.losses(tokens, torch.zeros(1, T, 64))
