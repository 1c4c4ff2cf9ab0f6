"""Pages of made-up replicas: what must be said, whatever the numbers are."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from dmsae_ray.errors import DataError
from dmsae_ray.groundtruth import Replica
from dmsae_ray.report import KnownFeatures, findings, write_known_features
from dmsae_ray.report.known_tables import tables

ARM = {"size": 5.0, "precision": 0.5, "recall": 0.5, "purity": 0.9, "purity_encoder": 0.9, "frequency": 0.2}


def replica(
    seed: int, *, ahead: float = 0.0, rank: float = 0.6, regime: str = "pos", score: str = "quantile"
) -> Replica:
    """The distilled core is ahead of the best of C_0 by `ahead`; the run's score has the rank correlation `rank`."""
    jitter = 0.01 * (seed % 3)
    arms = {
        name: {**ARM, "importance": 0.5 + value, "importance_encoder": 0.5 + value}
        for name, value in (
            ("distilled", ahead + jitter),
            ("best of C_0", 0.0),
            ("last core", 0.1 + jitter),
            ("best of the dictionary by mean_square", 0.3),
        )
    }
    return Replica(
        regime=regime,
        seed=seed,
        score=score,
        seconds=1.0,
        collapsed={"dense": None, "sparse": None},
        in_first={"dense": True, "sparse": True},
        sizes={"dense": [6, 6, 5], "sparse": [6, 6, 5]},
        arms={"dense": arms, "sparse": arms},
        cores={
            variant: [{"cycle": c, "share_of_width": 0.1 * c, **ARM, "purity": 1 - fall * c + jitter} for c in (1, 2)]
            for variant, fall in (("dense", 0.3), ("sparse", 0.0))
        },
        scores={
            name: {"dictionary": value + jitter, "pool": value, "best": value}
            for name, value in (("the run's score", rank), ("quantile 0.99", rank), ("mean_square", 0.8))
        },
        rediscovery={"dense distilled": {f"{a}_{b}": 0.9 for a in ("encoder", "decoder") for b in ("mean", 0.7, 0.9)}},
        transfer={
            name: {"l0": 6.0, "fvu": 0.1 + jitter, "loss_recovered": 0.9} for name in ("sparse core", "baseline")
        },
        world=f"{regime} {seed}",
    )


def said(replicas: list[Replica]) -> str:
    return "\n".join(findings(KnownFeatures(replicas)))


def test_a_tie_is_called_a_tie_and_a_gain_a_gain() -> None:
    text = said([replica(seed) for seed in range(6)])
    assert "holds more importance in 0 of 2 settings, and less in 0." in text
    text = said([replica(seed, ahead=0.2) for seed in range(6)])
    assert "more importance in 2 of 2 settings: pos (dense) +0.21* [" in text
    assert "and less in 0." in text
    text = said([replica(seed, ahead=-0.2) for seed in range(6)])
    assert "more importance in 0 of 2 settings, and less in 2: pos (dense) -0.19* [" in text


def test_a_wrong_score_is_named() -> None:
    right = said([replica(seed) for seed in range(6)])
    assert "Wrong score" not in right
    for rank in (-0.01, -0.5):
        wrong = said([replica(seed, rank=rank) for seed in range(6)])
        assert "Wrong score: 'quantile', which selected the cores" in wrong and "in 1 of 1 regimes" in wrong


def test_what_becomes_of_cores_is_paired_within_a_regime() -> None:
    text = said([replica(seed) for seed in range(4)])
    assert "dense, which fires at 20% of tokens: pos -0.30 (4 equal)" in text
    assert "sparse, which fires at 20% of tokens: pos 0.00 (4 equal)" in text


def test_a_collapse_is_counted_once_and_in_no_number() -> None:
    lost = replace(
        replica(5),
        collapsed={"dense": "cycle 2: no_latent_fires", "sparse": None},
        sizes={"dense": [6, 6, 0], "sparse": [6, 6, 0]},
        arms={"dense": {}, "sparse": replica(5).arms["sparse"]},
    )
    known = KnownFeatures([*(replica(seed) for seed in range(5)), lost])
    text = "\n".join(findings(known))
    assert "Collapsed, and in no number: pos seed 5 (dense, cycle 2: no_latent_fires)." in text
    assert "C* is empty and in no number: pos seed 5 (sparse)." in text
    rivals = next(t for t in tables(known) if "share of all importance" in t.title)
    cells = {row[0]: row[1] for row in rivals.rows}
    assert cells["dense: distilled - best of C_0"].endswith("], n = 5")
    assert "n =" not in cells["sparse: distilled - best of C_0"]


def test_with_few_seeds_nothing_is_claimed() -> None:
    for count in (1, 2):
        text = said([replica(seed, ahead=0.4, rank=-0.9) for seed in range(count)])
        assert "too few seeds" in text and "*" not in text.replace("C*", "")


def test_one_replica_twice_is_refused() -> None:
    with pytest.raises(DataError, match=r"^groundtruth: pos, seed 3 is there twice; a replica counts once$"):
        KnownFeatures([replica(3), replica(4), replica(3)])
    assert len(KnownFeatures([replica(3), replica(3, regime="neg")]).replicas) == 2


def test_the_page_has_all_numbers(tmp_path: Path) -> None:
    known = KnownFeatures([replica(seed, regime=regime) for regime in ("pos", "a<b") for seed in range(3)])
    page = write_known_features(known, tmp_path / "new", {"steps": 3})
    html = page.read_text()
    assert "a&lt;b" in html and "a<b" not in html.replace("data:", "") and html.count("<figure") == 3
    numbers = json.loads((tmp_path / "new" / "groundtruth.json").read_text())
    assert [Replica.from_dict(tree) for tree in numbers["replicas"]] == known.replicas
    assert numbers["findings"] == findings(known)
    markdown = (tmp_path / "new" / "groundtruth.md").read_text()
    for drawn in ("scores", "rivals", "purity"):
        assert (tmp_path / "new" / f"groundtruth_{drawn}.png").stat().st_size > 5000
        assert f"](groundtruth_{drawn}.png)" in markdown
