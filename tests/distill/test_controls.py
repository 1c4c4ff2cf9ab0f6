import itertools
import math

import pytest
import torch

from dmsae_ray.distill.controls import CONTROLS, gaussian_core, latent_core, random_core
from dmsae_ray.distill.core import Core
from dmsae_ray.distill.lineage import LineageId
from dmsae_ray.distill.seeds import derive_seed
from dmsae_ray.errors import ConfigError

D, M, POOL = 6, 40, 12


@pytest.fixture
def setting():
    generator = torch.Generator().manual_seed(0)
    w_enc = torch.randn(M, D, generator=generator) * torch.rand(M, 1, generator=generator).add(0.1)
    scores = torch.rand(POOL, generator=generator)
    frequency = torch.rand(M, generator=generator)
    selected = torch.tensor([7, 2, 9])
    core = Core(w_enc[selected], tuple(LineageId(0, int(i)) for i in selected))
    return w_enc, scores, frequency, selected, core


@pytest.mark.parametrize("name", [name for name in CONTROLS if name != "gaussian_unit"])
def test_controls_have_the_norms_of_their_core_row_for_row(setting, name):
    w_enc, scores, frequency, selected, core = setting

    def make(seed):
        if name == "gaussian":
            return gaussian_core(core, seed)
        return latent_core(name, core, w_enc, scores, frequency, selected, seed)

    control = make(3)
    torch.testing.assert_close(control.rows.norm(dim=1), core.rows.norm(dim=1), rtol=1e-6, atol=0)
    assert control.rows.dtype == torch.float32
    assert torch.equal(control.rows, make(3).rows)
    if name in ("gaussian", "random_latents"):
        assert not torch.equal(control.rows, make(4).rows)


def test_one_random_core_is_not_matched_in_norm(setting):
    """The paper does not say that its random core was: its rows have the norm with which fresh rows begin."""
    core = setting[-1]
    unit, matched = random_core("gaussian_unit", core, 3), random_core("gaussian", core, 3)
    torch.testing.assert_close(unit.rows.norm(dim=1), torch.ones(3))
    torch.testing.assert_close(directions(unit.rows), directions(matched.rows))
    assert not torch.allclose(matched.rows.norm(dim=1), torch.ones(3))
    assert unit.provenance == {"control": "gaussian_unit", "seed": 3, "latents": None}
    with pytest.raises(ConfigError, match="'lowest_score' is not of random rows"):
        random_core("lowest_score", core, 3)


def directions(rows):
    return torch.nn.functional.normalize(rows, dim=1)


def test_controls_are_the_latents_they_say(setting):
    w_enc, scores, frequency, selected, core = setting
    lowest = latent_core("lowest_score", core, w_enc, scores, frequency, selected, 0)
    expected = sorted(range(POOL), key=lambda i: scores[i].item())[:3]
    assert lowest.provenance["latents"] == expected
    torch.testing.assert_close(directions(lowest.rows), directions(w_enc[expected]))
    frequent = latent_core("most_frequent", core, w_enc, scores, frequency, selected, 0)
    assert frequent.provenance["latents"] == sorted(range(POOL), key=lambda i: -frequency[i].item())[:3]
    drawn = set()
    for seed in range(60):
        latents = latent_core("random_latents", core, w_enc, scores, frequency, selected, seed).provenance["latents"]
        assert len(set(latents)) == 3 and not set(latents) & set(selected.tolist())
        drawn |= set(latents)
    assert drawn == set(range(POOL)) - set(selected.tolist()), "of the pool, in which the core was selected"


def test_matched_latents_fire_as_often_as_those_of_the_core(setting):
    """Against all ways to choose, by hand: three of nine in order."""
    w_enc, scores, frequency, selected, core = setting
    made = [
        latent_core("matched_frequency", core, w_enc, scores, frequency, selected, seed).provenance["latents"]
        for seed in (0, 1)
    ]
    assert made[0] == made[1], "without ties nothing is left to the seed"
    others = sorted(set(range(POOL)) - set(selected.tolist()))

    def distance(latents):
        return sum(abs(math.log(frequency[i] / frequency[j])) for i, j in zip(selected.tolist(), latents, strict=True))

    assert distance(made[0]) == pytest.approx(min(map(distance, itertools.permutations(others, 3))))
    frequency[others] = 0.25
    drawn = {
        tuple(latent_core("matched_frequency", core, w_enc, scores, frequency, selected, s).provenance["latents"])
        for s in range(20)
    }
    assert len(drawn) > 5, "ties are drawn"


def test_random_latents_are_not_the_rare_ones():
    """A dictionary of 20,000, as most are: rare outside the first group. The core's rivals are not among these."""
    generator = torch.Generator().manual_seed(1)
    m, pool = 20_000, 200
    frequency = torch.full((m,), 1e-4, dtype=torch.float64)
    frequency[:pool] = 0.1 + 0.2 * torch.rand(pool, generator=generator)
    w_enc = torch.randn(m, 4, generator=generator)
    selected = torch.arange(0, 60, 2)
    core = Core(w_enc[selected], tuple(LineageId(0, int(i)) for i in selected))
    for name in ("random_latents", "matched_frequency"):
        chosen = latent_core(name, core, w_enc, torch.rand(pool), frequency, selected, 3).provenance["latents"]
        ratio = float(frequency[chosen].mean() / frequency[selected].mean())
        assert 0.8 < ratio < 1.25, name


def test_a_zero_row_is_no_candidate_and_too_few_candidates_are_no_control(setting):
    w_enc, scores, frequency, selected, core = setting
    w_enc[int(scores.argmin())] = 0
    lowest = latent_core("lowest_score", core, w_enc, scores, frequency, selected, 0)
    assert int(scores.argmin()) not in lowest.provenance["latents"]
    assert latent_core("lowest_score", core, w_enc, scores[:2], frequency, selected, 0) is None


def test_derived_seeds_are_stable_and_distinct():
    assert derive_seed(0, "cycle", 1) == derive_seed(0, "cycle", 1)
    seeds = {derive_seed(s, "cycle", c) for s in range(20) for c in range(20)} | {derive_seed(0, "cycle", "1")}
    assert len(seeds) == 401 and all(0 <= s < 2**63 for s in seeds)
