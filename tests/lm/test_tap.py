"""The tap against transformers' own hidden states, full autograd and finite differences."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from dmsae_ray.lm import cross_entropy as chunked
from dmsae_ray.lm.loading import load_tap
from dmsae_ray.lm.tap import Tap

from .models import CONFIGS, LAYERS, VOCAB, reference

every_model = pytest.mark.parametrize("name", CONFIGS)
every_layer = pytest.mark.parametrize("layer", range(LAYERS))


def tap_of(folder: Path, layer: int, dtype: str = "float32", **options: Any) -> Tap:
    return load_tap(str(folder), layer, "cpu", dtype, **options)


def blocks(model: Any) -> Any:
    decoder = model.base_model
    decoder = getattr(decoder, "language_model", getattr(decoder, "decoder", decoder))
    return decoder.h if hasattr(decoder, "h") else decoder.layers


def block_output(model: Any, layer: int, tokens: Tensor) -> Tensor:
    found: list[Tensor] = []

    def keep(_: Any, __: Any, output: Any) -> None:
        found.append(output[0] if isinstance(output, tuple) else output)

    handle = blocks(model)[layer].register_forward_hook(keep)
    with torch.no_grad():
        model(tokens)
    handle.remove()
    return found[0]


@every_model
@every_layer
def test_activations_are_transformers_hidden_states(
    random_models: dict[str, Path], name: str, layer: int, tokens: Tensor
) -> None:
    model = reference(random_models[name])
    with torch.no_grad():
        states = model(tokens, output_hidden_states=True).hidden_states
    x = tap_of(random_models[name], layer).activations(tokens)
    assert x.shape == (3, 24, 32)
    assert torch.equal(x, block_output(model, layer, tokens))
    if layer + 1 < LAYERS:  # the last hidden state of transformers has passed the final norm
        assert torch.equal(x, states[layer + 1])
    else:
        assert not torch.equal(x, states[layer + 1])


@every_model
@every_layer
def test_a_truncated_model_gives_the_same_activations_and_holds_no_more(
    random_models: dict[str, Path], name: str, layer: int, tokens: Tensor
) -> None:
    whole = tap_of(random_models[name], layer)
    part = tap_of(random_models[name], layer, full=False)
    assert torch.equal(part.activations(tokens), whole.activations(tokens))
    assert (part.n_layers, part.d_model, part.vocab_size) == (LAYERS, 32, VOCAB)
    names = [key for key, _ in part._decoder.named_parameters()]
    kept = {int(piece) for key in names for piece in key.split(".") if piece.isdigit()}
    assert kept == set(range(layer + 1))
    assert not any("lm_head" in key or "embed_out" in key for key in names)
    with pytest.raises(ValueError, match="full=False"):
        part.gradients(tokens)


@every_model
def test_layers_above_the_tap_are_not_run(random_models: dict[str, Path], name: str, tokens: Tensor) -> None:
    tap = tap_of(random_models[name], 1)
    ran: list[int] = []
    children = next(c for c in tap._decoder.children() if isinstance(c, torch.nn.ModuleList))
    for i, block in enumerate(children):
        block.register_forward_hook(lambda *_, i=i: ran.append(i))
    tap.activations(tokens)
    assert ran == [0, 1]


def full_autograd(model: Any, layer: int, tokens: Tensor, mask: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """x, dCE/dx and CE with a graph through the whole model, embeddings and parameters included."""
    model.requires_grad_(True)
    found: list[Tensor] = []

    def keep(_: Any, __: Any, output: Any) -> None:
        found.append(output[0] if isinstance(output, tuple) else output)
        found[0].retain_grad()

    handle = blocks(model)[layer].register_forward_hook(keep)
    logits = model(tokens).logits
    handle.remove()
    targets = torch.full_like(tokens, -100)
    targets[:, :-1] = tokens[:, 1:]
    targets[~mask] = -100
    loss = cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="sum")
    loss.backward()
    grad = found[0].grad
    assert grad is not None
    return found[0].detach(), grad, loss.detach()


@every_model
@every_layer
def test_gradients_equal_full_autograd(random_models: dict[str, Path], name: str, layer: int, tokens: Tensor) -> None:
    mask = torch.ones_like(tokens, dtype=torch.bool)
    mask[0, 10] = mask[1, 20:] = False
    want_x, want_g, want_loss = full_autograd(reference(random_models[name]), layer, tokens, mask)
    tap = tap_of(random_models[name], layer)
    x, g, valid = tap.gradients(tokens, mask)
    assert torch.equal(x, want_x)
    assert torch.equal(g, want_g)
    assert float(g.abs().max()) > 0
    mask[:, -1] = False
    assert torch.equal(valid, mask)
    total, n = tap.loss(tokens, loss_mask=mask)
    assert n == int(mask.sum())
    assert float(total) == pytest.approx(float(want_loss), rel=1e-6)


@pytest.mark.parametrize("name", ["gpt2", "gpt_neox"])
def test_gradients_equal_finite_differences_in_float64(
    random_models: dict[str, Path], name: str, tokens: Tensor
) -> None:
    # Both run in float64 throughout; Gemma's and Llama's norms and eager softmax drop to float32 inside.
    tap = tap_of(random_models[name], 1, "float64", attention="sdpa")
    x, g, _ = tap.gradients(tokens)
    generator = torch.Generator().manual_seed(1)
    for _ in range(4):
        direction = torch.randn(x.shape, generator=generator, dtype=torch.float64)
        up, _ = tap.loss(tokens, lambda x, d=direction: x + 1e-5 * d)
        down, _ = tap.loss(tokens, lambda x, d=direction: x - 1e-5 * d)
        assert float((up - down) / 2e-5) == pytest.approx(float((g * direction).sum()), rel=1e-6)


def test_gradients_of_the_tiny_gemma_follow_its_loss(tokens: Tensor) -> None:
    tap = load_tap("tiny", 1, "cpu", "float32")
    _, g, _ = tap.gradients(tokens)
    up, _ = tap.loss(tokens, lambda x: x + 1e-3 * g / g.norm())
    down, _ = tap.loss(tokens, lambda x: x - 1e-3 * g / g.norm())
    assert float((up - down) / 2e-3) == pytest.approx(float(g.norm()), rel=0.02)


def test_a_context_has_the_gradients_of_its_own_losses(random_models: dict[str, Path], tokens: Tensor) -> None:
    tap = tap_of(random_models["llama"], 1)
    _, together, _ = tap.gradients(tokens)
    alone = torch.cat([tap.gradients(row[None])[1] for row in tokens])
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-6)


def test_masked_losses_have_no_influence(random_models: dict[str, Path], tokens: Tensor) -> None:
    # Right padding: whatever stands there, x and g before it stay.
    tap = tap_of(random_models["gemma2"], 0)
    mask = torch.ones_like(tokens, dtype=torch.bool)
    mask[:, 15:] = False
    other = tokens.clone()
    other[:, 16:] = 5
    x, g, valid = tap.gradients(tokens, mask)
    x2, g2, _ = tap.gradients(other, mask)
    assert torch.equal(x[:, :16], x2[:, :16])
    assert torch.equal(g[:, :16], g2[:, :16])
    assert not valid[:, 15:].any() and valid[:, :15].all()
    assert not g[:, 16:].any()
    assert tap.loss(tokens, loss_mask=mask)[0] == tap.loss(other, loss_mask=mask)[0]


def test_a_mask_of_another_shape_is_refused(random_models: dict[str, Path], tokens: Tensor) -> None:
    tap = tap_of(random_models["gpt2"], 0)
    with pytest.raises(ValueError, match="must be bool"):
        tap.loss(tokens, loss_mask=torch.ones(3, 23, dtype=torch.bool))
    with pytest.raises(ValueError, match="must be bool"):
        tap.gradients(tokens, torch.ones(3, 24))


@every_model
def test_loss_is_the_models_own(random_models: dict[str, Path], name: str, tokens: Tensor) -> None:
    with torch.no_grad():
        mean = float(reference(random_models[name])(tokens, labels=tokens).loss)
    total, n = tap_of(random_models[name], 1).loss(tokens)
    assert n == 3 * 23
    assert total.dtype == torch.float64
    assert float(total) / n == pytest.approx(mean, rel=1e-5)


@every_model
def test_edits_replace_the_stream_that_the_layers_above_see(
    random_models: dict[str, Path], name: str, tokens: Tensor
) -> None:
    folder = random_models[name]
    tap = tap_of(folder, 1)
    assert tap.loss(tokens, lambda x: x) == tap.loss(tokens)

    def turned(x: Tensor) -> Tensor:
        return 0.5 * x.flip(-1)

    model = reference(folder)
    blocks(model)[1].register_forward_hook(
        lambda _, __, out: (turned(out[0]), *out[1:]) if isinstance(out, tuple) else turned(out)
    )
    with torch.no_grad():
        mean = float(model(tokens, labels=tokens).loss)
    total, n = tap.loss(tokens, turned)
    assert float(total) / n == pytest.approx(mean, rel=1e-5)
    assert total != tap.loss(tokens)[0]
    assert tap.loss(tokens) == tap_of(folder, 1).loss(tokens)  # nothing of the edit stays


def logits_of(model: Any, tokens: Tensor) -> Tensor:
    with torch.no_grad():
        return model(tokens).logits.double()


@every_model
@pytest.mark.parametrize("rows", [2, 1000])
def test_two_runs_are_compared_over_the_whole_vocabulary(
    random_models: dict[str, Path], name: str, tokens: Tensor, rows: int
) -> None:
    folder, mask = random_models[name], torch.rand(3, 24, generator=torch.Generator().manual_seed(3)) < 0.7

    def turned(x: Tensor) -> Tensor:
        return 0.5 * x.flip(-1)

    model = reference(folder)
    clean = logits_of(model, tokens)
    blocks(model)[1].register_forward_hook(
        lambda _, __, out: (turned(out[0]), *out[1:]) if isinstance(out, tuple) else turned(out)
    )
    edited = logits_of(model, tokens)
    want = [0.0, 0.0, 0.0]
    for c, t in mask[:, :-1].nonzero().tolist():  # token by token, by the definitions
        p, q, target = clean[c, t].softmax(0), edited[c, t].softmax(0), tokens[c, t + 1]
        want[0] -= float(p[target].log())
        want[1] -= float(q[target].log())
        want[2] += float((p * (p / q).log()).sum())
    tap = tap_of(folder, 1)
    tap._rows = rows
    *found, n = tap.compare(tokens, turned, mask)
    assert n == int(mask[:, :-1].sum()) and {sums.dtype for sums in found} == {torch.float64}
    assert [float(sums) for sums in found] == pytest.approx(want, rel=1e-4)
    assert float(found[0]) == pytest.approx(float(tap.loss(tokens, None, mask)[0]), rel=1e-6)
    assert float(found[1]) == pytest.approx(float(tap.loss(tokens, turned, mask)[0]), rel=1e-6)
    assert float(tap.compare(tokens, lambda x: x, mask)[2]) == 0
    with pytest.raises(ValueError, match=r"must be \[3, 24, 32\]"):
        tap.compare(tokens, lambda x: x[:, :-1])


def test_a_token_that_cannot_come_adds_nothing_to_the_divergence() -> None:
    logits = torch.tensor([[[0.0, 1.0, -math.inf], [1.0, 0.0, -math.inf]]])
    targets = torch.tensor([[0, -100]])
    found = chunked.compared(lambda hidden: hidden, logits, logits.flip(1), targets, 10)
    p = 1 / (1 + math.e)
    want = (-math.log(p), -math.log(1 - p), p * math.log(p / (1 - p)) + (1 - p) * math.log((1 - p) / p))
    assert [float(sums) for sums in found] == pytest.approx(want, rel=1e-6)


def test_zero_ablation_after_the_last_block_leaves_a_uniform_guess(
    random_models: dict[str, Path], tokens: Tensor
) -> None:
    total, n = tap_of(random_models["gemma2"], LAYERS - 1).loss(tokens, torch.zeros_like)
    assert float(total) / n == pytest.approx(math.log(VOCAB), rel=1e-6)


def test_an_edit_of_another_shape_is_refused(random_models: dict[str, Path], tokens: Tensor) -> None:
    with pytest.raises(ValueError, match=r"must be \[3, 24, 32\]"):
        tap_of(random_models["gpt2"], 0).loss(tokens, lambda x: x[:, :-1])


@pytest.mark.parametrize("rows", [1, 7, 24, 1000])
def test_cross_entropy_in_chunks_is_the_same(random_models: dict[str, Path], tokens: Tensor, rows: int) -> None:
    tap = tap_of(random_models["gemma2"], LAYERS - 1)
    hidden = torch.randn(3, 24, 32, generator=torch.Generator().manual_seed(0))
    targets, _ = chunked.targets_of(tokens)
    head = tap._whole()
    want = hidden.clone().requires_grad_(True)
    loss = cross_entropy(head(want.reshape(1, -1, 32))[0], targets.reshape(-1), reduction="sum")
    loss.backward()
    assert float(chunked.summed(head, hidden, targets, rows)) == pytest.approx(loss.item(), rel=1e-6)
    torch.testing.assert_close(chunked.gradient(head, hidden, targets, rows), want.grad)


def test_bfloat16_activations_and_gradients_are_close_to_float32(
    random_models: dict[str, Path], tokens: Tensor
) -> None:
    x, g, _ = tap_of(random_models["llama"], 1).gradients(tokens)
    x16, g16, _ = tap_of(random_models["llama"], 1, "bfloat16").gradients(tokens)
    assert x16.dtype == g16.dtype == torch.bfloat16
    assert float((x - x16.float()).norm() / x.norm()) < 0.02
    assert float((g - g16.float()).norm() / g.norm()) < 0.05
