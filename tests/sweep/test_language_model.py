"""The loss of the tiny model through an SAE: what training left out keeps its own activation, high norms included."""

from pathlib import Path

import pytest
import torch

from dmsae_ray.config.experiment import parse_experiment
from dmsae_ray.lm.loading import load_tap
from dmsae_ray.sae.dictionary import MatryoshkaSAE
from dmsae_ray.sweep.language_model import LanguageModel
from tests.report.small_output import CONTEXT, PER_SHARD, make_store

MULTIPLE = 1.1
KEY = "b" * 24


def test_high_norms_and_bos_are_spared_in_the_splice_and_in_both_ablations(tmp_path: Path) -> None:
    """Against a plain splice, with the mask computed from the norms themselves, shard by shard."""
    store = make_store(tmp_path, KEY, max_norm_multiple=MULTIPLE)
    tree = {
        "name": "spared",
        "model": {"name": "tiny", "layer": 1, "dtype": "float32"},
        "corpus": {"source": "stdlib", "context": CONTEXT, "tokens": 4096},
        "activations": {"dtype": "float32", "max_norm_multiple": MULTIPLE, "shard_tokens": PER_SHARD * CONTEXT},
        "recipe": {"tokens": 4096, "batch_size": 64, "warmup_steps": 2, "threshold_start_step": 2},
    }
    model = LanguageModel(parse_experiment(tree).model_dump(mode="json"), str(tmp_path), KEY)
    sae = MatryoshkaSAE(64, 128, [64, 64], 8, seed=1)
    sae.theta.fill_(0.5)

    tap = load_tap("tiny", 1, "cpu", "float32")
    tokens, targets = store.eval_tokens(), store.eval_loss_mask()
    x = tap.activations(tokens)
    norms, special = x.norm(dim=-1), tokens == tap.bos_id
    high = torch.zeros_like(special)
    for part in (slice(i, i + PER_SHARD) for i in range(0, len(tokens), PER_SHARD)):
        high[part] = norms[part] > MULTIPLE * norms[part][~special[part]].median()
    spared = special | high
    assert 20 < int((high & ~special).sum()) < tokens.numel() // 2
    assert torch.equal(store.eval_kept(), ~spared)
    mean = x[~spared].double().mean(0).float()
    torch.testing.assert_close(store.eval_mean().float(), mean)

    def loss(edited: torch.Tensor, keep: torch.Tensor) -> float:
        total, count = tap.loss(tokens, lambda x: torch.where(keep[..., None], x, edited), targets)
        return float(total) / count

    decoded = sae.decode(sae.encode(x.reshape(-1, 64))).view(x.shape).detach()
    clean, zero = loss(x, spared), loss(torch.zeros_like(x), spared)
    spliced, by_mean = loss(decoded, spared), loss(mean.expand_as(x), spared)
    found = model.loss_recovered(sae)
    expected = {
        "ce_clean": clean,
        "ce_sae": spliced,
        "ce_zero": zero,
        "ce_mean": by_mean,
        "loss_recovered": (zero - spliced) / (zero - clean),
        "loss_recovered_from_mean": (by_mean - spliced) / (by_mean - clean),
    }
    assert found == pytest.approx(expected, rel=1e-3)
    assert model.loss_recovered(sae) == pytest.approx(found, rel=1e-6), "the second time from what is known"
    assert abs(spliced - loss(decoded, special)) > 0.01, "sparing BOS alone is another measure"
