"""What goes wrong in a training is a result by its name, and ends the training where it is asked to."""

import dataclasses

import torch

from dmsae_ray.distill.cycle_store import DirectoryCycleStore

from .synthetic import BATCH, STEPS, D, Synthetic, run, small_settings


def test_a_collapse_is_a_result_by_name():
    class NoGradient(Synthetic):
        def attribution(self):
            x, g = super().attribution()
            return x, torch.zeros_like(g)

    records = []
    source = NoGradient()
    history = run(source, controls=("gaussian",), on_cycle=records.append)
    assert (history.collapsed_at, history.collapse) == (0, "all_scores_zero")
    assert source.served == STEPS
    assert records[0].collapsed == "all_scores_zero" and records[0].n_core == 0
    assert len(history.distilled) == 0
    assert history.summary()["collapsed_at"] == 0


def test_a_diverged_training_is_a_collapse_by_name(tmp_path):
    class Huge(Synthetic):
        def batches(self, start, stop):
            return (x * 1e30 for x in super().batches(start, stop))

    source, store = Huge(), DirectoryCycleStore(tmp_path)
    history = run(source, store=store, window_steps=10)
    assert (history.collapsed_at, history.collapse) == (0, "not_finite")
    assert history.tokens < STEPS * BATCH and source.served == history.tokens / BATCH
    again = run(source, store=store)
    assert (again.collapse, again.reports[0].cached) == ("not_finite", True)


def unhealthy(stop_on, **recipe):
    settings = small_settings()
    return dataclasses.replace(settings, recipe=dataclasses.replace(settings.recipe, stop_on=stop_on, **recipe))


class Silent(Synthetic):
    """Nothing to encode."""

    def sample(self, n, seed):
        return torch.zeros(n, D)


class Jumping(Synthetic):
    """One batch is far from all others."""

    def batches(self, start, stop):
        return (x * 8 if start + i == 32 else x for i, x in enumerate(super().batches(start, stop)))


def test_an_sae_that_never_fires_is_a_collapse_by_name(tmp_path):
    source, store = Silent(), DirectoryCycleStore(tmp_path)
    history = run(source, store=store)
    assert history.collapse == "no_latent_fires"
    assert source.served == STEPS // 10, "it ends when the host first looks"
    assert history.reports[0].troubles == {"no_latent_fires": 0}
    assert store.load(history.reports[0].key).health.troubles == {"no_latent_fires": 0}
    assert history.summary()["records"][0]["troubles"] == {"no_latent_fires": 0}


def test_all_dead_is_a_collapse_by_name():
    history = run(Silent(), unhealthy(("all_dead",), dead_after_tokens=10 * BATCH))
    assert history.collapse == "all_dead"
    assert history.reports[0].troubles == {"no_latent_fires": 0, "all_dead": 9}


def test_a_training_may_go_on_whatever_is_seen():
    source = Silent()
    history = run(source, unhealthy((), dead_after_tokens=10 * BATCH))
    assert source.served == STEPS and history.collapse == "no_latent_fires"
    assert set(history.reports[0].troubles) == {"no_latent_fires", "all_dead"}


def test_a_spike_is_reported_and_ends_a_training_only_if_it_should(tmp_path):
    store = DirectoryCycleStore(tmp_path)
    history = run(Jumping(), store=store, cycles=1)
    assert history.collapse is None and len(history.reports) == 2
    assert history.reports[0].troubles == {"spike": 32} and history.reports[1].troubles == {}
    assert run(Jumping(), store=store, cycles=1).reports[0].troubles == {"spike": 32}, "and is told again"
    stopped = run(Jumping(), unhealthy(("spike",)), cycles=1)
    assert (stopped.collapsed_at, stopped.collapse) == (0, "spike")
    assert stopped.reports[0].tokens == 36 * BATCH
