"""Counts made by hand."""

import math

import torch

from dmsae_ray.evaluation.firing_frequency import FREQUENCY_EDGES, frequency_distribution


def test_frequencies_counted_by_hand():
    fired = torch.tensor([0, 1, 10, 99_999, 100_000, 100_001, 1_000_000, 0])
    found = frequency_distribution(fired, 1_000_000)
    assert found.latents == 8 and found.dead == 2 / 8 and found.dense == 2 / 8  # 10% itself is not dense
    assert found.median == 99_999 / 1e6  # the lower one of the two in the middle of six
    want = {-6.0: 1, -5.0: 1, -1.5: 1, -1.0: 2, -0.5: 1}
    assert dict(zip(FREQUENCY_EDGES, found.histogram, strict=False)) == {
        e: want.get(e, 0) for e in FREQUENCY_EDGES[:-1]
    }
    rarer = frequency_distribution(fired, 10**9)
    assert rarer.histogram[0] == 2 and sum(rarer.histogram) == 6, "what is rarer than all bins is in the first"


def test_without_latents_or_without_live_ones_there_is_nothing_to_say():
    none, silent = (frequency_distribution(torch.zeros(n, dtype=torch.int64), 10) for n in (0, 3))
    assert none.latents == 0 and math.isnan(none.dead) and math.isnan(none.dense) and math.isnan(none.median)
    assert silent.dead == 1 and silent.dense == 0 and math.isnan(silent.median)
    assert set(none.histogram) == set(silent.histogram) == {0}
