"""Spikes, NaN and collapse are named, with the step they began at, a bounded number of steps later."""

import io
from typing import Any

import pytest
import torch
from torch import Tensor

from dmsae_ray.errors import ConfigError
from dmsae_ray.sae.dictionary import MatryoshkaSAE
from dmsae_ray.sae.health import Diagnosis, HealthMonitor
from dmsae_ray.sae.recipe import Recipe
from dmsae_ray.sae.trainer import SAETrainer

from .worlds import features, make_sae, recipe


def watched(sae: MatryoshkaSAE, batches: list[Tensor], how: Recipe | None = None, **options: Any) -> HealthMonitor:
    trainer, monitor = SAETrainer(sae, how or recipe()), HealthMonitor(sae, **options)
    for x in batches:
        monitor.observe(trainer.step(x))
    monitor.look()
    return monitor


def batches(steps: int, **odd: Tensor) -> list[Tensor]:
    """features, with some steps ("at_7") replaced."""
    return [odd.get(f"at_{step}", features(48, 12, step)) for step in range(steps)]


def test_a_normal_training_is_not_reported() -> None:
    assert watched(make_sae(), batches(60), every=10).diagnoses == []
    assert watched(make_sae(n_core=7), batches(60), every=10).diagnoses == []


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, 1e30])
@pytest.mark.parametrize("step", [0, 7])
def test_a_batch_that_is_not_finite_is_named_and_moves_no_weight(bad: float, step: int) -> None:
    sae = make_sae()
    trainer, monitor = SAETrainer(sae, recipe(warmup_steps=0, threshold_start_step=0)), HealthMonitor(sae, every=10)
    found: list[Diagnosis | None] = []
    for i in range(20):
        x = features(48, 12, i)
        if i == step:
            x[3, 4] = bad
        before = {name: tensor.clone() for name, tensor in sae.state_dict().items()}
        found.append(monitor.observe(trainer.step(x)))
        if i == step > 0:
            for name, tensor in sae.state_dict().items():
                assert torch.equal(tensor, before[name]) or (name == "W_dec" and torch.allclose(tensor, before[name]))
    assert all(bool(torch.isfinite(tensor).all()) for tensor in sae.state_dict().values())
    assert [(d.trouble, d.step) for d in monitor.diagnoses] == [("not_finite", step)]
    assert [i for i, d in enumerate(found) if d] == [9], "reported once, when the host looks"
    assert not torch.equal(before["W_enc"], make_sae().W_enc), "steps after it train"


def test_a_dictionary_that_fires_nowhere_is_a_collapse() -> None:
    sae = make_sae()
    sae.b_enc.data.sub_(100.0)
    monitor = watched(sae, batches(10), every=5, stop_on=("all_dead",))
    assert monitor.diagnoses == [Diagnosis("no_latent_fires", 0), Diagnosis("all_dead", 1)]
    assert monitor.stopped == Diagnosis("all_dead", 1)


def test_so_does_one_of_which_almost_nothing_fires() -> None:
    sae = make_sae(k=16)
    sae.b_enc.data[1:] -= 100.0
    x = features(48, 12, 0)
    x[1:] = x[1:].mean(0)  # one row is away from the median that b_dec starts at
    sae.W_enc.data[0] = (x[0] - x[1]) * 10
    trainer, monitor = SAETrainer(sae, recipe(lr=1e-9)), HealthMonitor(sae, every=1)
    stats = trainer.step(x)
    assert 0 < float(stats.l0_non_core) < 0.16
    assert monitor.observe(stats) == Diagnosis("no_latent_fires", 0)


def test_a_spike_is_named_and_does_not_hide_itself() -> None:
    spikes = {"at_44": features(48, 12, 44) * 10, "at_52": features(48, 12, 52) * 10}
    monitor = watched(make_sae(), batches(60, **spikes), every=10, spike_factor=5.0)
    assert monitor.diagnoses == [Diagnosis("spike", 44)]
    assert monitor.stopped is None
    again = watched(make_sae(), batches(60, at_52=spikes["at_52"]), every=10, spike_factor=5.0, stop_on=("spike",))
    assert again.stopped == Diagnosis("spike", 52)


def test_dead_latents_waking_the_auxiliary_loss_are_no_spike() -> None:
    how = recipe(auxk_alpha=100.0, dead_after_tokens=48 * 30)
    sae = make_sae()
    sae.b_enc.data[20:] -= 100.0  # these never fire; after 30 steps they are dead
    trainer, monitor = SAETrainer(sae, how), HealthMonitor(sae, every=1, spike_factor=3.0)
    stats = [trainer.step(x) for x in batches(40)]
    assert max(float(s.loss) for s in stats) > 20 * float(stats[25].loss)
    assert all(monitor.observe(s) is None for s in stats)


@pytest.mark.parametrize("stop", [0, 5, 44, 45, 50, 59])
def test_resuming_gives_the_same_diagnoses_at_the_same_steps(stop: int) -> None:
    sae = make_sae()
    trainer, straight = SAETrainer(sae, recipe()), HealthMonitor(sae, every=10)
    stats = [trainer.step(x) for x in batches(60, at_44=features(48, 12, 44) * 30)]
    told = [straight.observe(s) for s in stats]
    stopped, resumed = HealthMonitor(sae, every=10), HealthMonitor(sae, every=10)
    first = [stopped.observe(s) for s in stats[:stop]]
    file = io.BytesIO()
    torch.save(stopped.state(), file)
    file.seek(0)
    resumed.restore(torch.load(file, weights_only=True), torch.device("cpu"))
    assert first + [resumed.observe(s) for s in stats[stop:]] == told
    assert straight.diagnoses == resumed.diagnoses == [Diagnosis("spike", 44)]


def test_settings_that_cannot_work() -> None:
    with pytest.raises(ConfigError, match="every"):
        HealthMonitor(make_sae(), every=0)
    with pytest.raises(ConfigError, match="spike_factor"):
        HealthMonitor(make_sae(), spike_factor=1.0)
    with pytest.raises(ConfigError, match=r"stop_on: \['spikes'\] must be names of \['not_finite', "):
        recipe(stop_on=("spikes",))


def test_a_dense_core_does_not_hide_that_nothing_else_fires() -> None:
    sae = make_sae(n_core=7)
    sae.b_enc.data[7:].sub_(100.0)
    found = watched(sae, batches(10), every=5)
    assert found.diagnoses == [Diagnosis("no_latent_fires", 0)]
    sparse = make_sae(n_core=7, core_sparsity="sparse")
    sparse.b_enc.data[7:].sub_(100.0)
    assert watched(sparse, batches(10), every=5).diagnoses == []  # BatchTopK selects among the core's latents


def test_a_trouble_that_does_not_exist_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"stop_on: \['spikes'\] must be names of"):
        HealthMonitor(make_sae(), stop_on=("spikes",))  # type: ignore[arg-type]
