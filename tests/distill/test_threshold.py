"""The inference threshold of a trained SAE: L0 on held-out tokens is the budget, and no step depends on it."""

import dataclasses

import pytest
import torch

from dmsae_ray.distill.cycle_settings import CycleSettings
from dmsae_ray.distill.training import TrainingHooks, TrainingJob, train_sae
from dmsae_ray.sae.recipe import Recipe

from .synthetic import D, Synthetic

STEPS = 300


def trained(threshold, sparsity="dense", core=0):
    recipe = Recipe(
        steps=STEPS, lr=1e-2, warmup_steps=20, threshold_start_step=50, threshold_beta=0.99, threshold=threshold
    )
    settings = CycleSettings(64, (12, 20, 32), 4, recipe, 64, STEPS, core_sparsity=sparsity)
    rows = torch.nn.functional.normalize(torch.randn(core, D, generator=torch.Generator().manual_seed(1)), dim=1)
    return train_sae(settings, Synthetic(), TrainingJob(rows, 3, 0, "a training"), TrainingHooks())


def held_out_l0(sae):
    """[2]: active latents a token under BatchTopK, and others, on tokens that no training saw."""
    fired = (sae.encode(Synthetic().sample(20_000, 5)) > 0).sum(0).double() / 20_000
    return float(fired[sae.n_dense :].sum()), float(fired[: sae.n_dense].sum())


@pytest.mark.parametrize(("sparsity", "core"), [("dense", 0), ("dense", 9), ("sparse", 9)])
def test_l0_on_held_out_tokens_is_the_budget(sparsity, core):
    before, after = trained("running_mean", sparsity, core), trained("calibrated", sparsity, core)
    budget = after.sae.topk_budget
    assert held_out_l0(after.sae)[0] == pytest.approx(budget, rel=0.03)
    if (sparsity, core) == ("dense", 9):
        assert held_out_l0(before.sae)[0] < 0.95 * budget, "the running mean lags the decay of lr"
    assert before.windows == after.windows
    for name in ("W_enc", "b_enc", "W_dec", "b_dec"):
        assert torch.equal(getattr(before.sae, name), getattr(after.sae, name)), "no step depends on it"


@pytest.mark.parametrize("stop", [STEPS - 45, STEPS - 7, STEPS - 1])
def test_a_training_that_is_resumed_in_its_last_stretch_has_the_same_threshold(stop):
    recipe = Recipe(steps=STEPS, lr=1e-2, warmup_steps=20, threshold_start_step=50)
    settings = CycleSettings(64, (12, 20, 32), 4, recipe, 64, STEPS)
    job, states = TrainingJob(torch.empty(0, D), 3, 0, "a training"), {}
    whole = train_sae(
        settings,
        Synthetic(),
        job,
        TrainingHooks(checkpoint_every_steps=1, on_checkpoint=lambda step, state: states.setdefault(step, state)),
    )
    resumed = train_sae(settings, Synthetic(), job, TrainingHooks(), state=states[stop])
    assert float(whole.sae.theta) == float(resumed.sae.theta) > 0
    assert dataclasses.replace(resumed, sae=whole.sae, seconds=whole.seconds).steps == STEPS
