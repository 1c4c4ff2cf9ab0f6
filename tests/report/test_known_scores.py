"""Scores are called right, wrong, or not shown: by the benchmark's own replicas, and by hand-made ones."""

import json
import math
from dataclasses import replace
from itertools import combinations
from pathlib import Path

import pytest

from dmsae_ray.groundtruth import Replica
from dmsae_ray.report import KnownFeatures, findings
from dmsae_ray.report.known_scores import judged, own_scores
from dmsae_ray.report.known_tables import tables

from .test_known_features import replica

FILE = Path(__file__).parents[2] / "sweeps" / "findings" / "groundtruth.json"
STANDARD = [Replica.from_dict(tree) for tree in json.loads(FILE.read_text())["replicas"]]


def ranked(seed: int, *, own: float | None = None, **others: float) -> Replica:
    """Exact ablation ranks at 0.8 or so, the run's score at `own`, further scores as they say."""
    ranks = {"ablation": 0.8 + 0.01 * seed, **others} | ({} if own is None else {"the run's score": own})
    found = replica(seed, score="mine")
    return replace(found, scores={s: {"dictionary": v, "pool": v, "best": 0.5} for s, v in ranks.items()})


def said(replicas: list[Replica]) -> str:
    return "\n".join(findings(KnownFeatures(replicas)))


@pytest.mark.parametrize("n", [3, 6])
def test_on_the_standard_regimes_right_scores_are_right_and_random_is_wrong(n: int) -> None:
    for seeds in combinations(range(6), n):
        known = KnownFeatures([r for r in STANDARD if r.seed in seeds])
        for score in ("quantile 0.99", "quantile 0.999", "mean_square", "ablation", "the run's score"):
            assert {j.answer for j in judged(known, score)} == {"right"}
        assert {j.answer for j in judged(known, "random")} == {"wrong"}
        text = "\n".join(findings(known))
        assert "rong score" not in text and "too few to say" not in text


def test_a_right_score_of_wide_spread_is_not_called_wrong() -> None:
    """+0.54 in the mean of three seeds, whose interval holds 0: the seeds are too few."""
    text = said([ranked(seed, own=own) for seed, own in enumerate((0.25, 0.57, 0.80))])
    line = "n = 3 seeds are too few to say whether 'mine' ranks latents by what matters: pos +0.54 [-0.15, +1.00]."
    assert line in text and "rong score" not in text


@pytest.mark.parametrize(
    ("ranks", "answer"),
    [
        ((0.5, 0.55, 0.6), "right"),
        ((0.15, 0.16, 0.17), "wrong"),  # shown to be of no use, though above 0
        ((-0.7, -0.8, -0.75), "wrong"),
        ((-0.2, 0.0, 0.3), "wrong"),  # at chance, while ablation is far ahead
        ((-0.9, 0.1, 0.85), "not shown"),
        ((0.1, 0.3, 0.5), "not shown"),
        ((-1.0, -1.0, -1.0), "wrong"),
        ((0.6, 0.6, 0.6), "not shown"),  # three signs show nothing
        ((-0.9, -0.9), "not shown"),
    ],
)
def test_answers_by_hand(ranks: tuple[float, ...], answer: str) -> None:
    (found,) = judged(KnownFeatures([ranked(seed, own=own) for seed, own in enumerate(ranks)]), "the run's score")
    assert found.answer == answer


def test_with_one_or_two_seeds_it_is_said_that_no_score_can_be_judged() -> None:
    tail = "too few to say whether 'mine' ranks latents by what matters; with fewer than 3 no score can be judged: pos "
    assert f"n = 1 seed is {tail}-0.90." in said([ranked(0, own=-0.9)])
    assert f"n = 2 seeds are {tail}-0.80 (-0.90, -0.70)." in said([ranked(0, own=-0.9), ranked(1, own=-0.7)])


@pytest.mark.parametrize("count", [1, 3])
def test_a_constant_score_ranks_nothing(count: int) -> None:
    replicas = [ranked(seed, own=math.nan, mine=math.nan) for seed in range(count)]
    text = said(replicas)
    assert "Wrong score: 'mine', which selected the cores, ranks nothing in pos: all latents have one score." in text
    assert "(the run's score -)" in text and "nan" not in text and "too few to say" not in text
    ranks = next(t for t in tables(KnownFeatures(replicas)) if t.title.startswith("Rank correlation"))
    assert dict(ranks.rows)["the run's score"] == "-"
    # Where no score ranks anything, as no latent stands for a feature that matters, none is to blame.
    lost = replace(replicas[0], scores={s: {**v, "dictionary": math.nan} for s, v in replicas[0].scores.items()})
    assert "rong score" not in said([lost])


def test_wrong_scores_that_are_only_compared_are_named() -> None:
    replicas = [
        ranked(seed, own=0.6 + 0.01 * seed, mine=0.6, bad=-0.5 + 0.01 * seed, flat=math.nan, odd=0.4 * seed - 0.3)
        for seed in range(3)
    ]
    replicas = [
        replace(r, scores={**r.scores, "random": {"dictionary": 0.0, "pool": 0.0, "best": 0.0}}) for r in replicas
    ]
    assert own_scores(KnownFeatures(replicas)) == ["bad", "flat", "odd"]
    text = said(replicas)
    assert (
        "Wrong scores: 'bad', which was only compared, does not rank latents by what matters in 1 of 1 regimes" in text
    )
    assert ": pos -0.49 [-0.51, -0.47]; 'flat', which was only compared, ranks nothing in pos: all latents" in text
    assert (
        "n = 3 seeds are too few to say whether 'odd' ranks latents by what matters: pos +0.10 [-0.89, +1.00]." in text
    )
    assert "Wrong score:" not in text and "'random'" not in text
