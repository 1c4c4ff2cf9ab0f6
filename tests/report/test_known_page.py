"""What the page of the benchmark says where seeds are missing, where nothing is found, and of replicas that are one."""

import json
import math
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

from dmsae_ray.groundtruth import Replica
from dmsae_ray.report import KnownFeatures, findings, write_known_features
from dmsae_ray.report.estimates import estimate
from dmsae_ray.report.known_pictures import pictures
from dmsae_ray.report.known_tables import tables
from dmsae_ray.tracking.benchmark_records import numbers_of

from .test_known_features import replica

NOTHING: dict[str, Any] = {name: {} for name in ("arms", "cores", "scores", "rediscovery", "transfer")}


def said(replicas: list[Replica]) -> str:
    return "\n".join(findings(KnownFeatures(replicas)))


def test_cells_with_fewer_seeds_than_their_head_say_their_n() -> None:
    """One seed of four collapsed in both variants: it ranks no score, and has no core that is found again."""
    lost = replace(replica(3), collapsed=dict.fromkeys(("dense", "sparse"), "cycle 0: no_latent_fires"), **NOTHING)
    whole = [replica(seed) for seed in range(3)]
    again = {"dense distilled": {**whole[2].rediscovery["dense distilled"], "encoder_0.7": math.nan}}
    known = KnownFeatures([*whole[:2], replace(whole[2], rediscovery=again), lost])
    by_title = {re.split(", over|, over all| by an| within", t.title)[0]: t for t in tables(known)}
    ranks = by_title["Rank correlation of scores with the true importance"]
    assert ranks.names[1] == "pos n = 4" and {row[1].rpartition(", ")[2] for row in ranks.rows} == {"n = 3"}
    assert by_title["Cores"].names[2] == "n" and {row[2] for row in by_title["Cores"].rows} == {"3"}
    assert by_title["Rediscovery"].names[:4] == ("set", "n", "encoder mean", "encoder 0.7")
    assert by_title["Rediscovery"].rows[0][1:4] == ("3", "0.90 (3 equal)", "0.90 (0.90, 0.90), n = 2")
    figure = pictures(known)[0].draw()
    assert figure.axes[0].get_title() == "pos, n = 3"


def test_intervals_stay_where_values_can_be() -> None:
    """Shares of importance near 1, correlations near 1: no interval reaches beyond."""
    ends = (0.6, 0.97, 0.99)
    scores = [{"mean": {"dictionary": v, "pool": v - 0.3, "best": v}} for v in ends]
    known = KnownFeatures([replace(replica(seed), scores=s) for seed, s in enumerate(scores)])
    found = {t.title: t.rows[0][1] for t in tables(known) if t.rows[0][0] == "mean"}
    (best,) = (text for title, text in found.items() if title.startswith("Importance recovered"))
    (pool,) = (text for title, text in found.items() if "over the pool" in title)
    assert best == estimate(ends, "share").text()
    assert pool == estimate((v - 0.3 for v in ends), "difference").text()
    (ranks,) = (text for title, text in found.items() if title.endswith("over all latents of cycle 0"))
    assert ranks == estimate(ends, "difference").text()


def test_one_cycle_has_no_change_of_a_core() -> None:
    many = [replica(seed) for seed in range(3)]
    one = [replace(r, cores={v: cores[:1] for v, cores in r.cores.items()}) for r in many]
    assert "last cycle - first" in said(many) and "which fires at" not in said(one)


def without_importance(r: Replica) -> Replica:
    none = {"importance": 1e-14, "importance_encoder": 0.0}
    arms = {v: {name: {**arm, **none} for name, arm in arms.items()} for v, arms in r.arms.items()}
    scores = {s: {"dictionary": math.nan, "pool": math.nan, "best": 0.0} for s in r.scores}
    return replace(r, arms=arms, scores=scores)


def test_where_nothing_is_recovered_it_is_said() -> None:
    assert "Nothing of the importance" not in said([replica(seed) for seed in range(3)])
    text = said([without_importance(replica(seed)) for seed in range(3)])
    assert "Nothing of the importance is recovered in pos (3 of 3 seeds): there the comparisons say nothing." in text
    assert "rong score" not in text and "nan" not in text
    some = [replica(0), without_importance(replica(1)), *(replica(seed, regime="neg") for seed in range(3))]
    assert "is recovered in pos (1 of 2 seeds): there" in said(some)


def test_replicas_that_share_a_world_are_told() -> None:
    own = [replica(seed) for seed in range(3)]
    text = "replicas of pos share {} (by fingerprint): they differ in their tokens and trainings only"
    assert "by fingerprint" not in said(own)
    assert "by fingerprint" not in said([replace(r, world="") for r in own])  # not noted
    assert f"The 3 {text.format('one world')}" in said([replace(r, world="same") for r in own])
    assert f"The 3 {text.format('2 worlds')}" in said([own[0], *(replace(r, world="same") for r in own[1:])])


def test_one_replica_under_two_seeds_counts_once() -> None:
    again = [replica(0), replica(1), replace(replica(1), seed=7, seconds=9.0)]
    assert [r.seed for r in KnownFeatures(again).of("pos")] == [0, 1]
    assert "Counted once, since they are the same in every number: pos seed 7 is seed 1." in said(again)
    # Where nothing was measured, there is nothing to tell them apart by: each collapsed.
    lost = [replace(replica(seed), world="", **NOTHING) for seed in range(3)]
    assert len(KnownFeatures(lost).replicas) == 3


def test_numbers_that_do_not_exist_are_null_in_json(tmp_path: Path) -> None:
    flat, mean = {"dictionary": math.nan, "pool": math.nan, "best": 0.1}, {"dictionary": 0.5, "pool": 0.4, "best": 0.1}
    one = replace(replica(0), scores={"flat": flat, "mean": mean})
    write_known_features(KnownFeatures([one]), tmp_path, {"lr": 0.1})
    text = (tmp_path / "groundtruth.json").read_text()
    (tree,) = json.loads(text)["replicas"]
    assert "NaN" not in text and tree["scores"]["flat"] == {"dictionary": None, "pool": None, "best": 0.1}
    read = Replica.from_dict(tree)
    assert math.isnan(read.scores["flat"]["pool"]) and read.collapsed == {"dense": None, "sparse": None}
    assert "rank with importance/mean" in numbers_of(read) and "rank with importance/flat" not in numbers_of(read)


def test_a_page_of_collapses_has_no_empty_headings(tmp_path: Path) -> None:
    lost = replace(replica(0), collapsed={"dense": "cycle 0: all_scores_zero", "sparse": None}, **NOTHING)
    html = write_known_features(KnownFeatures([lost]), tmp_path, {}).read_text()
    assert "<h2>" not in html and 'href="#' not in html and "Collapsed, and in no number: pos seed 0" in html
    assert "too few seeds" not in html and "\n\n\n" not in (tmp_path / "groundtruth.md").read_text()


def test_a_pool_that_is_the_whole_dictionary_is_shown_once() -> None:
    both = [replica(seed) for seed in range(3)]
    whole = [replace(r, scores={s: {**v, "pool": v["dictionary"]} for s, v in r.scores.items()}) for r in both]
    for replicas, shown in ((both, 1), (whole, 0)):
        known = KnownFeatures(replicas)
        assert sum("over the pool of cycle 0" in t.title for t in tables(known)) == shown
        labels = pictures(known)[0].draw().axes[0].get_legend_handles_labels()[1]
        assert ("the pool" in labels) == bool(shown)


def test_the_title_of_a_panel_fits_it() -> None:
    long = "a_package.of_mine.worlds.that_have:a_rather_long_name"
    known = KnownFeatures([replica(seed, regime=regime) for regime in ("pos", "neg", long) for seed in range(3)])
    for picture in pictures(known)[:2]:
        figure = picture.draw()
        assert figure.axes[0].get_title() == "pos, n = 3"
        assert figure.axes[2].get_title() == f"…{long[-19:]}\nn = 3"
        figure.draw_without_rendering()
        boxes = [axis.title.get_window_extent() for axis in figure.axes[:3]]
        assert all(box.x0 >= 0 and box.x1 <= figure.bbox.width for box in boxes)
