import math
from pydoc_data.topics import topics

import pytest
import torch

from dmsae_ray.errors import ConfigError, DataError
from dmsae_ray.evaluation.spliced_loss import loss_recovered
from dmsae_ray.lm.loading import load_tap
from dmsae_ray.sae.dictionary import MatryoshkaSAE

D, V, T = 8, 20, 6


class Bigram:
    """A language model of one embedding and one unembedding, the tap between them."""

    def __init__(self):
        generator = torch.Generator().manual_seed(0)
        self.embed = torch.randn(V, D, generator=generator)
        self.unembed = torch.randn(D, V, generator=generator)

    def loss(self, tokens, edit=None, loss_mask=None):
        x = self.embed[tokens]
        x = x if edit is None else edit(x)
        logits = (x @ self.unembed)[:, :-1].double()
        loss = torch.nn.functional.cross_entropy(logits.reshape(-1, V), tokens[:, 1:].reshape(-1), reduction="sum")
        return loss, tokens[:, 1:].numel()


@pytest.fixture
def tokens():
    """Each next token is the one that the model thinks most likely, but for a few."""
    model, generator = Bigram(), torch.Generator().manual_seed(1)
    best = (model.embed @ model.unembed).argmax(1)
    rows = [torch.randint(V, (10,), generator=generator)]
    for _ in range(T - 1):
        lot = torch.randint(V, (10,), generator=generator)
        rows.append(torch.where(torch.rand(10, generator=generator) < 0.8, best[rows[-1]], lot))
    return torch.stack(rows, 1)


def sae_of(kind):
    """perfect: +-e_i latents reconstruct any x exactly. silent: nothing fires, so the reconstruction is b_dec = 0."""
    sae = MatryoshkaSAE(D, 2 * D, [D, D], 2)
    with torch.no_grad():
        both = torch.cat([torch.eye(D), -torch.eye(D)])
        sae.W_enc.copy_(both)
        sae.W_dec.copy_(both)
        sae.b_dec.zero_()
        sae.b_enc.fill_(-1e9 if kind == "silent" else 0.0)
    return sae


def test_a_perfect_sae_recovers_all_and_a_silent_one_nothing(tokens):
    model = Bigram()
    perfect = loss_recovered(model, sae_of("perfect"), tokens, batch_contexts=3)
    assert perfect.recovered == pytest.approx(1.0)
    assert perfect.spliced == pytest.approx(perfect.clean)
    assert perfect.clean == pytest.approx(float(model.loss(tokens)[0]) / perfect.targets)
    assert perfect.zero == pytest.approx(math.log(V))
    assert perfect.targets == 10 * (T - 1)
    silent = loss_recovered(model, sae_of("silent"), tokens)
    assert silent.recovered == pytest.approx(0.0) and silent.spliced == pytest.approx(silent.zero)


def test_batches_may_be_given_as_they_are(tokens):
    a = loss_recovered(Bigram(), sae_of("perfect"), tokens, batch_contexts=4)
    b = loss_recovered(Bigram(), sae_of("perfect"), tokens.split(3))
    assert b.clean == pytest.approx(a.clean) and b.targets == a.targets


def test_kept_positions_are_left_alone_by_both_edits(tokens):
    model = Bigram()

    def first(batch):
        keep = torch.zeros_like(batch, dtype=torch.bool)
        keep[:, 0] = True
        return keep

    found = loss_recovered(model, sae_of("silent"), tokens, keep_mask=first)
    head = float(model.loss(tokens[:, :2])[0])
    expected = (head + 10 * (T - 2) * math.log(V)) / (10 * (T - 1))
    assert found.zero == pytest.approx(expected) and found.spliced == pytest.approx(expected)
    everything = loss_recovered(
        model, sae_of("silent"), tokens, keep_mask=lambda t: torch.ones_like(t, dtype=torch.bool)
    )
    assert math.isnan(everything.recovered) and everything.spliced == pytest.approx(everything.clean)


def test_a_mask_of_the_positions_is_cut_into_batches_with_the_tokens(tokens):
    """One sink in each context: its own activation stays in the splice and in both ablations."""
    model, mean = Bigram(), torch.linspace(-1, 1, D)
    sink = torch.zeros_like(tokens, dtype=torch.bool)
    sink[torch.arange(10), torch.arange(10) % (T - 1)] = True
    found = loss_recovered(model, sae_of("silent"), tokens, keep_mask=sink, mean=mean, batch_contexts=3)

    def plain(replacement):
        edited = torch.where(sink[..., None], model.embed[tokens], replacement)
        return float(model.loss(tokens, lambda x: edited)[0]) / (10 * (T - 1))

    assert found.spliced == pytest.approx(plain(torch.zeros(D))) and found.zero == pytest.approx(found.spliced)
    assert found.mean == pytest.approx(plain(mean))
    assert found.recovered_from_mean == pytest.approx((found.mean - found.spliced) / (found.mean - found.clean))
    assert loss_recovered(model, sae_of("silent"), tokens, keep_mask=sink, like=found) == found
    with pytest.raises(ConfigError, match="keep_mask: shape"):
        loss_recovered(model, sae_of("silent"), tokens, keep_mask=sink[:, 1:])
    with pytest.raises(ConfigError, match="keep_mask: a tensor goes with tokens as one tensor"):
        loss_recovered(model, sae_of("silent"), [tokens], keep_mask=sink)


def test_nothing_to_predict_is_an_error():
    with pytest.raises(DataError, match="no targets"):
        loss_recovered(Bigram(), sae_of("perfect"), [])


@pytest.fixture(scope="module")
def tap():
    return load_tap("tiny", 1, device="cpu", dtype="float32")


def identity_sae(d):
    sae = MatryoshkaSAE(d, 2 * d, [d, d], 2)
    with torch.no_grad():
        both = torch.cat([torch.eye(d), -torch.eye(d)])
        sae.W_enc.copy_(both)
        sae.W_dec.copy_(both)
    return sae


def test_on_the_tiny_gemma_an_identity_loses_nothing_and_a_worse_sae_loses_more(tap):
    text = " ".join(topics[name] for name in ("if", "while", "import"))
    tokens = torch.tensor(tap.tokenizer(text)["input_ids"][: 8 * 32]).reshape(8, 32)
    perfect = loss_recovered(tap, identity_sae(tap.d_model), tokens)
    again = loss_recovered(tap, identity_sae(tap.d_model), tokens, like=perfect)
    assert again == perfect
    with pytest.raises(ConfigError, match=r"^like: it was measured on"):
        loss_recovered(tap, identity_sae(tap.d_model), tokens[:1], like=perfect)
    assert perfect.recovered == pytest.approx(1.0, abs=1e-4)
    assert perfect.clean == pytest.approx(float(tap.loss(tokens)[0]) / perfect.targets)
    blurred = identity_sae(tap.d_model)
    with torch.no_grad():
        blurred.W_dec[:, ::4] = 0
    worse = loss_recovered(tap, blurred, tokens)
    assert worse.clean < worse.spliced
    assert worse.recovered < perfect.recovered
    kept = loss_recovered(tap, blurred, tokens, keep_mask=lambda t: torch.ones_like(t, dtype=torch.bool))
    assert kept.spliced == pytest.approx(kept.clean, rel=1e-6)


def test_the_divergence_is_that_of_the_spliced_model(tap):
    """With masks and batches, against one dense run; the losses stay what they are without it."""
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(4, tap.vocab_size, (6, 16), generator=generator)
    keep, mask = (torch.rand(6, 16, generator=generator) < share for share in (0.3, 0.6))
    sae = identity_sae(tap.d_model)
    with torch.no_grad():
        sae.W_dec[:, ::4] = 0
    masks = {"keep_mask": keep, "loss_mask": mask, "batch_contexts": 4, "mean": torch.ones(tap.d_model)}
    found, plain = (loss_recovered(tap, sae, tokens, **masks, divergence=on) for on in (True, False))

    def edit(x):
        return torch.where(keep[..., None], x, sae(x.reshape(-1, tap.d_model)).view(x.shape))

    *_, apart, count = tap.compare(tokens, edit, mask)
    assert found.kl == pytest.approx(float(apart) / count, rel=1e-5) and found.kl > 0.01
    assert plain.kl is None
    for name in ("clean", "spliced", "zero", "mean", "recovered", "recovered_from_mean"):
        assert getattr(found, name) == pytest.approx(getattr(plain, name), rel=1e-6, nan_ok=True), name
    assert loss_recovered(tap, sae, tokens, **masks, divergence=True, like=plain).kl == found.kl
    perfect = loss_recovered(tap, identity_sae(tap.d_model), tokens, divergence=True)
    assert perfect.kl == pytest.approx(0, abs=1e-6)


def test_masked_targets_are_left_out_whatever_the_batching() -> None:
    tap = load_tap("tiny", 1, "cpu", "float32")
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(4, tap.vocab_size, (6, 16), generator=generator)
    mask = torch.rand(6, 16, generator=generator) > 0.4
    sae = MatryoshkaSAE(tap.d_model, 128, [64, 64], 8)
    one = loss_recovered(tap, sae, tokens, batch_contexts=2, loss_mask=mask)
    clean, targets = tap.loss(tokens, None, mask)
    assert one.targets == targets == int(mask[:, :-1].sum())
    assert one.clean == pytest.approx(float(clean) / targets, rel=1e-6)
    with pytest.raises(ConfigError, match="loss_mask"):
        loss_recovered(tap, sae, [tokens], loss_mask=mask)
