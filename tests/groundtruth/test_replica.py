"""Facts about distillation that hold where the truth is known; never that the distilled core wins."""

import json
from dataclasses import replace

import pytest
import torch

from dmsae_ray.errors import ConfigError, DataError
from dmsae_ray.groundtruth import REGIMES, BenchmarkSettings, Regime, Replica, run_replica

from .own import backwards, fails, nothing, orthogonal, too_few

SMALL = BenchmarkSettings(
    n_latents=32, group_sizes=(8, 8, 16), k=3, batch_size=64, steps=60, cycles=2, tokens=1500, importance_tokens=1500
)
OWN = Regime("own", "orthogonal", orthogonal, transfer=True)


@pytest.fixture(scope="module")
def indep() -> Replica:
    return run_replica(REGIMES["indep"], 0, BenchmarkSettings(tokens=8000, importance_tokens=8000))


@pytest.fixture(scope="module")
def own() -> Replica:
    return run_replica(OWN, 1, SMALL)


def test_the_distilled_core_is_a_part_of_what_cycle_0_selected(indep: Replica, own: Replica) -> None:
    assert indep.in_first == own.in_first == {"dense": True, "sparse": True}
    assert all(sizes[-1] <= sizes[0] for r in (indep, own) for sizes in r.sizes.values())


def test_ablation_and_squares_rank_far_better_than_the_papers_quantile_where_rare_features_matter(
    indep: Replica,
) -> None:
    paper = indep.scores["quantile 0.99"]["dictionary"]
    for score in ("ablation", "mean_square"):
        assert indep.scores[score]["dictionary"] > paper + 0.2
    assert abs(indep.scores["random"]["dictionary"]) < 0.25 < indep.scores["frequency"]["dictionary"]
    assert indep.scores["ablation"]["dictionary"] > indep.scores["ablation, spliced"]["dictionary"] + 0.2


def test_a_dense_core_densifies_and_loses_its_features_and_a_sparse_one_does_not(indep: Replica) -> None:
    purity = {variant: [core["purity"] for core in cores] for variant, cores in indep.cores.items()}
    assert [core["cycle"] for core in indep.cores["dense"]] == [1, 2, 3]
    assert purity["dense"][-1] < purity["dense"][0] - 0.1
    assert purity["sparse"][-1] > purity["sparse"][0] - 0.1
    assert all(core["frequency"] > 0.9 for core in indep.cores["dense"])
    assert all(core["frequency"] < 0.3 for core in indep.cores["sparse"])


def test_sets_are_compared_at_equal_size(indep: Replica) -> None:
    for variant, arms in indep.arms.items():
        *_, last, star = indep.sizes[variant]
        of_star = ["distilled", "best of C_0", "random of C_0", "most frequent", "random of the pool"]
        assert {arms[name]["size"] for name in of_star} == {star}
        assert {arm["size"] for name, arm in arms.items() if "dictionary" in name or name == "last core"} == {last}
        assert arms["ceiling of the pool"]["importance"] >= arms["best of C_0"]["importance"] - 1e-9
        # Encoder rows are frozen: what they recover is the same in the last SAE as in the first.
        moved, kept = arms["distilled"], arms["distilled, decoder of cycle 0"]
        assert moved["importance_encoder"] == kept["importance_encoder"]


def test_two_runs_of_a_replica_give_the_same_numbers(own: Replica) -> None:
    again = run_replica(OWN, 1, SMALL)
    assert replace(again, seconds=own.seconds) == own
    assert Replica.from_dict(json.loads(json.dumps(own.as_dict()))) == own
    assert set(own.transfer) == {"baseline", "sparse core", "dense core", "baseline at the dense core's L0"}
    assert own.transfer["baseline"]["loss_recovered"] > 0.5


def test_a_score_that_is_wrong_on_purpose_shows() -> None:
    found = run_replica(OWN, 1, replace(SMALL, steps=150, score="backwards"), {"backwards": backwards})
    ranks = {name: score["dictionary"] for name, score in found.scores.items()}
    assert ranks["mean_square"] > 0.3 > -0.3 > ranks["backwards"] == pytest.approx(-ranks["mean_square"])
    assert found.arms["dense"]["distilled"]["importance_encoder"] < 0.01


def test_a_collapse_is_a_result() -> None:
    found = run_replica(OWN, 1, replace(SMALL, score="nothing"), {"nothing": nothing})
    assert found.collapsed == dict.fromkeys(("dense", "sparse"), "cycle 0: all_scores_zero")
    assert found.arms == {"dense": {}, "sparse": {}} and found.transfer == {}
    assert json.loads(json.dumps(found.as_dict()))["sizes"] == {"dense": [0, 0], "sparse": [0, 0]}


def test_a_set_that_is_another_under_a_second_name_is_not_there() -> None:
    """The whole dictionary as the pool, and a run by the score of a rival."""
    found = run_replica(OWN, 1, replace(SMALL, pool_groups=3, score="mean_square")).arms["sparse"]
    assert [name for name in found if "prefix 0 by" in name] == []
    assert [name for name in found if "dictionary by" in name] == [
        "best of the dictionary by the run's score",
        "best of the dictionary by ablation",
    ]
    plain = run_replica(OWN, 1, replace(SMALL, pool_groups=2, coverage=0.5)).arms["sparse"]
    assert "best of prefix 0 by the run's score" in plain and "best of the dictionary by mean_square" in plain


def test_what_cannot_be_used_is_refused() -> None:
    with pytest.raises(
        ConfigError,
        match=r"^own, seed 1: scorer 'too few': its scores have shape \(3,\); one a latent are needed, \(32,\)$",
    ):
        run_replica(OWN, 1, SMALL, {"too few": too_few})
    with pytest.raises(
        ConfigError, match=r"^own, seed 1: scorer 'fails': ZeroDivisionError: .* by zero \(own.py, line \d+\)$"
    ):
        run_replica(OWN, 1, SMALL, {"fails": fails})
    with pytest.raises(
        ConfigError, match=r"^own, seed 1: scorer 'negative': latent 0 has score -1.0; scores must be finite and >= 0$"
    ):
        run_replica(OWN, 1, SMALL, {"negative": lambda sae, source: -torch.ones(sae.n_latents)})
    with pytest.raises(ConfigError, match=r"^own, seed 1: scorer 'odd': its scores are complex numbers; they must be"):
        run_replica(OWN, 1, SMALL, {"odd": lambda sae, source: torch.ones(sae.n_latents, dtype=torch.complex64)})
    with pytest.raises(ConfigError, match=r"^coverage: 2.0 is not in \(0, 1\]$"):
        replace(SMALL, coverage=2.0)
    with pytest.raises(ConfigError, match=r"^own, seed 1: score: 'odd' is unknown"):
        run_replica(OWN, 1, replace(SMALL, score="odd"))
    with pytest.raises(DataError, match=r"not of this version; delete it"):
        Replica.from_dict({"regime": "pos"})
