"""The recipe: its schedule against torch's, and what it refuses, in one line that names the field."""

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dmsae_ray.errors import ConfigError
from dmsae_ray.sae.recipe import Recipe


@given(steps=st.integers(1, 60), warmup=st.integers(0, 20), decay=st.none() | st.integers(0, 60))
def test_learning_rates_are_those_of_the_peers_lambda(steps: int, warmup: int, decay: int | None) -> None:
    decay = decay if decay is None else min(decay, steps)
    start = int(0.8 * steps) if decay is None else decay

    def scale(step: int) -> float:  # as dictionary_learning's get_lr_schedule, written out
        if step < warmup:
            return step / warmup
        return (steps - step) / (steps - start) if step >= start < steps else 1.0

    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.5)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, scale)
    recipe = Recipe(steps=steps, lr=0.5, warmup_steps=warmup, decay_start=decay)
    for step in range(steps):
        assert recipe.lr_at(step) == pytest.approx(scheduler.get_last_lr()[0])
        optimizer.step()
        scheduler.step()
    assert recipe.lr_at(10 * steps + warmup) == (0.5 if start == steps else 0)


def test_prefix_losses_are_averaged() -> None:
    assert Recipe(steps=1).prefix_weights(5) == pytest.approx([1 / 25] * 5)
    assert Recipe(steps=1, group_weights=(1, 2)).prefix_weights(2) == (0.5, 1.0)
    with pytest.raises(ConfigError, match="2 values for 3 groups"):
        Recipe(steps=1, group_weights=(1, 2)).prefix_weights(3)


@pytest.mark.parametrize(
    "wrong",
    [
        {"steps": 0}, {"steps": 10.5}, {"steps": "10"}, {"steps": True}, {"lr": 0}, {"lr": torch.inf}, {"lr": "fast"},
        {"lr": torch.nan}, {"eps": 0}, {"clip_norm": -1}, {"betas": (0.9,)}, {"betas": (0.9, 1.0)},
        {"betas": (0.9, None)}, {"betas": (-0.1, 0.9)}, {"auxk_alpha": -1}, {"k_aux": 0}, {"k_aux": 1.5},
        {"dead_after_tokens": 0}, {"threshold_beta": torch.nan}, {"warmup_steps": -1}, {"decay_start": 11},
        {"decay_start": -1}, {"group_weights": (1.0, torch.nan)}, {"stop_on": ("spikes",)},
    ],
    ids=str,
)  # fmt: skip
def test_what_cannot_be_is_refused_by_name(wrong: dict[str, Any]) -> None:
    (name,) = wrong
    with pytest.raises(ConfigError, match=rf"recipe\..*{name}") as error:
        Recipe(**{"steps": 10, **wrong})
    assert "\n" not in str(error.value)
