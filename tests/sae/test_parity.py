"""The trainer follows the dense autograd reference, step for step."""

from typing import Any

import pytest
import torch

from dmsae_ray.sae.dictionary import MatryoshkaSAE
from dmsae_ray.sae.trainer import SAETrainer

from .worlds import assert_same_weights, features, make_sae, recipe, reference_of

VARIANTS: dict[str, dict[str, Any]] = {
    "empty core": {},
    "one group": {"groups": (64,)},
    "dense core": {"n_core": 7},
    "sparse core": {"n_core": 7, "core_sparsity": "sparse"},
    "tied core decoder": {"n_core": 7, "core_decoder_init": "tied"},
    "k' = 1": {"n_core": 20, "k": 1},
    "core larger than the last group": {"n_core": 30, "groups": (16, 24, 24)},
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_fifty_steps_follow_the_dense_reference(variant: str) -> None:
    sae, how = make_sae(**VARIANTS[variant]), recipe()
    reference, trainer = reference_of(sae, how), SAETrainer(sae, how)
    aux_steps = 0
    for step in range(50):
        x = features(48, 12, step)
        theirs, ours = reference.step(x), trainer.step(x)
        assert float(ours.loss) == pytest.approx(float(theirs["loss"]), rel=1e-4)
        assert torch.allclose(ours.prefix_mse, theirs["prefix_mse"].detach().double(), rtol=1e-4)
        assert float(ours.aux_loss) == pytest.approx(float(theirs["aux"]), rel=1e-3, abs=1e-6)
        assert float(ours.grad_norm) == pytest.approx(float(theirs["grad_norm"]), rel=1e-3)
        active = (theirs["z"] > 0).sum(0)
        assert float(ours.l0_core) == pytest.approx(float(active[: sae.n_core].sum()) / 48)
        assert float(ours.l0_non_core) == pytest.approx(float(active[sae.n_core :].sum()) / 48)
        assert int(ours.dead) == int(theirs["dead"].sum())
        aux_steps += float(theirs["aux"]) > 0
    assert_same_weights(sae, reference)
    assert float(sae.theta) == pytest.approx(reference.theta, rel=1e-4)
    assert torch.equal(trainer.state_dict()["silence"]["tokens"], reference.silent)
    assert aux_steps > 5, "the setting must have dead latents, or AuxK is not tested"
    x = features(100, 12, 999)
    assert torch.allclose(sae.encode(x), reference.encode(x).detach(), atol=1e-4)


def test_group_weights_and_few_auxiliary_latents() -> None:
    sae, how = make_sae(n_core=5), recipe(group_weights=(0.7, 0.1, 0.4), k_aux=2, auxk_alpha=0.5, dead_after_tokens=40)
    reference, trainer = reference_of(sae, how), SAETrainer(sae, how)
    for step in range(40):
        x = features(48, 12, step)
        theirs, ours = reference.step(x), trainer.step(x)
        assert float(ours.loss) == pytest.approx(float(theirs["loss"]), rel=1e-4)
    assert_same_weights(sae, reference)


def test_first_step_moves_only_the_decoder_bias() -> None:
    sae = make_sae()
    before = sae.W_enc.clone(), sae.b_enc.clone()
    stats = SAETrainer(sae, recipe()).step(features(48, 12, 0))
    assert stats.lr == 0.0
    assert torch.equal(sae.W_enc, before[0]) and torch.equal(sae.b_enc, before[1])
    assert float(sae.b_dec.abs().max()) > 0


@pytest.mark.parametrize("sparsity", ["dense", "sparse"])
def test_frozen_rows_are_bit_identical_after_training(sparsity: str) -> None:
    sae = make_sae(n_core=7, core_sparsity=sparsity)
    rows = sae.W_enc[:7].clone()
    assert torch.equal(rows, torch.randn(7, 12, generator=torch.Generator().manual_seed(77)))
    trainer = SAETrainer(sae, recipe(lr=0.05))
    for step in range(30):
        trainer.step(features(48, 12, step))
    assert torch.equal(sae.W_enc[:7], rows)
    moments = trainer.state_dict()["adam"]["exp_avg"]
    assert moments["W_enc"].shape == (57, 12), "frozen rows must have no optimiser state"


def test_no_global_random_number_is_read_or_moved() -> None:
    state = torch.random.get_rng_state()
    sae = make_sae(n_core=3)
    SAETrainer(sae, recipe()).step(features(48, 12, 0))
    assert torch.equal(torch.random.get_rng_state(), state)
    torch.manual_seed(123)
    again = make_sae(n_core=3)
    assert torch.equal(again.W_dec, MatryoshkaSAE(12, 64, [8, 16, 40], 4, core=again.W_enc[:3], seed=0).W_dec)
    assert not torch.equal(again.W_dec, make_sae(n_core=3, seed=1).W_dec)
