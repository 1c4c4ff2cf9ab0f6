"""What is left of cycle 0's core, and of controls that ran through all cycles in its place."""

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
from scipy import stats

from dmsae_ray.report.chains import chain_survival, chain_table
from dmsae_ray.report.estimates import estimate
from dmsae_ray.report.figures import write_figures
from dmsae_ray.report.report import make_report
from dmsae_ray.results import load_results
from dmsae_ray.results.data_frame import frame

from .summaries import make_summary

OWN = {0: [10, 9, 8, 8], 1: [10, 8, 8, 7], 2: [12, 11, 10, 6], 3: [10, 10, 9, 9]}
CHAIN = {0: [10, 5, 4, 2], 1: [10, 6, 4, 4], 2: [12, 7, 3, 3], 3: [10, 2, 0, 0]}
"""Survivors by seed; the chain of seed 3 collapses."""


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("chains")
    for seed, own in OWN.items():
        summary = make_summary(4, 0.9, seed)
        summary["survival"] = {"0": own}
        records = [{**summary["controls"]["gaussian"], "arm": "gaussian_chain", "cycle": c} for c in (1, 2, 3)]
        records[-1]["collapsed"] = "not_finite" if seed == 3 else None
        for record, chance in zip(records, (0.5, 0.4, 0.25), strict=True):
            record["chance"] = chance
        summary["left_out"] = {"random_latents_chain": "too few"} if seed == 2 else {}
        summary["chains"] = {"gaussian": {"records": records, "survivors": CHAIN[seed]}}
        place = folder / "trials" / summary["trial_id"]
        place.mkdir(parents=True)
        (place / "summary.json").write_text(json.dumps(summary))
    return folder


def test_the_table_pairs_shares_by_seed(sweep: Path) -> None:
    report = make_report(sweep)
    (table,) = report.chains
    own, beside = ("k", "τ", "n", "core left", "latents", "chance"), ("gaussian left", "latents", "chance")
    assert table.names == (*own, *beside, "core over gaussian")
    (row,) = table.rows
    assert row[2] == "4" and row[4] == "30 of 42" and row[7] == "9 of 32, n = 3"
    chances = [math.prod(record.chance for record in r.reports[1:]) for r in load_results(sweep)]
    assert row[5] == estimate(chances, "share").percent() and row[8] == "5% (3 equal)"  # 0.5 x 0.4 x 0.25
    shares = [8 / 10, 7 / 10, 6 / 12], [2 / 10, 4 / 10, 3 / 12]
    test = stats.ttest_rel(*shares)
    interval = test.confidence_interval(0.95)
    mean = sum(a - b for a, b in zip(*shares, strict=True)) / 3
    star = "*" if test.pvalue <= 0.05 else ""
    assert row[9] == f"{mean:+.2f}{star} [{interval.low:+.2f}, {interval.high:+.2f}]"
    assert row[3].startswith("72% [") and row[6].startswith("28% [")
    assert table.title in report.markdown([], sweep) and table in report.tables
    assert [line for line in report.health if "chain" in line] == [
        "k4-tau0.9-seed3: control gaussian_chain collapsed in cycle 3: not_finite",
        "k4-tau0.9-seed2: no control random_latents_chain: too few",
    ]


def test_survival_by_cycle_leaves_collapsed_chains_out(sweep: Path) -> None:
    found = chain_survival(load_results(sweep), "gaussian")
    assert [e.n for e in found] == [3] * 4 and found[0].mean == 1
    assert found[2].mean == pytest.approx((4 / 10 + 4 / 10 + 3 / 12) / 3)
    assert chain_survival(load_results(sweep), "random_latents") == []


def test_the_figure_and_the_frame_have_the_chains(sweep: Path) -> None:
    report = make_report(sweep)
    drawn = {d.picture.name: d for d in write_figures(report, sweep).drawn}
    numbers = drawn["survival"].picture.rows
    last = [row for row in numbers if row[2] == "gaussian in place of 0"][-1]
    assert last[3] == 3 and last[4] == pytest.approx((2 / 10 + 4 / 10 + 3 / 12) / 3)
    assert "Dashed lines are controls that ran through all cycles in its place." in drawn["survival"].caption
    table = frame(load_results(sweep))
    assert (table.arm == "gaussian_chain").sum() == 12
    result = load_results(sweep)[0]
    assert result.control_flops == 4 * 3e12 and result.flops == 4 * 3e12


def test_without_chains_there_is_no_table(sweep: Path) -> None:
    report = make_report(sweep)
    bare = {s: [replace(r, chains={}) for r in found] for s, found in report.replicas.items()}
    assert replace(report, replicas=bare).chains == []
    (empty,) = chain_table(report.cycles, bare, None).rows
    assert empty[3:] == chain_table(report.cycles, report.replicas, None).rows[0][3:6]
