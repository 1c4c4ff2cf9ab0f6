"""Spikes, NaN and collapse are named, with the step they began at, a bounded number of steps later."""

from dataclasses import replace

import pytest
import torch

from dmsae_ray.sae import HealthMonitor, SAETrainer, StepStats, UnhealthyTraining

from .worlds import features, make_sae, recipe


@pytest.fixture
def healthy() -> StepStats:
    return SAETrainer(make_sae(), recipe()).step(features(48, 12, 0))


def test_a_normal_training_is_not_reported() -> None:
    trainer, monitor = SAETrainer(make_sae(), recipe()), HealthMonitor(64, every=10)
    assert all(monitor.observe(trainer.step(features(48, 12, s))) is None for s in range(50))


def test_a_nan_in_the_data_is_named() -> None:
    trainer, monitor = SAETrainer(make_sae(), recipe()), HealthMonitor(64, every=10)
    found = []
    for step in range(20):
        x = features(48, 12, step)
        if step == 7:
            x[3, 4] = torch.nan
        found.append(monitor.observe(trainer.step(x)))
    first = next(d for d in found if d)
    assert (first.trouble, first.step, first.collapsed) == ("not_finite", 7, False)
    assert found.index(first) == 9


def test_a_dictionary_that_fires_nowhere_is_a_collapse() -> None:
    sae = make_sae()
    sae.b_enc.data.sub_(100.0)
    trainer, monitor = SAETrainer(sae, recipe()), HealthMonitor(64, every=5)
    found = [monitor.observe(trainer.step(features(48, 12, step))) for step in range(10)]
    assert [d.trouble for d in monitor.diagnoses] == ["no_latent_fires", "all_dead"]
    assert monitor.diagnoses[0].step == 0 and all(d.collapsed for d in monitor.diagnoses)
    assert sum(d is not None for d in found) == 1, "each trouble is reported once"


def test_a_spike_is_named_and_does_not_hide_itself(healthy: StepStats) -> None:
    monitor = HealthMonitor(64, every=10, spike_factor=5.0)
    for step in range(60):
        loss = healthy.loss * (50.0 if step == 44 else 1.0)
        found = monitor.observe(replace(healthy, loss=loss))
        assert (found is not None) == (step == 49)
    assert [(d.trouble, d.step) for d in monitor.diagnoses] == [("spike", 44)]


def test_stopping_raises_by_name(healthy: StepStats) -> None:
    monitor = HealthMonitor(64, every=1, action="stop")
    monitor.observe(healthy)
    with pytest.raises(UnhealthyTraining, match="not_finite at step 1"):
        monitor.observe(replace(healthy, loss=healthy.loss * torch.inf))
