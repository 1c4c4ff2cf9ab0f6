import csv
import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from scipy.stats import spearmanr

from dmsae_ray.distill import select_core
from dmsae_ray.plan import CycleSetting
from dmsae_ray.report import Agreement, ScoredCycle, score_findings, write_scores
from dmsae_ray.report.estimates import estimate
from dmsae_ray.report.score_agreement import best
from dmsae_ray.report.score_page import score_tables
from dmsae_ray.report.score_sizes import COVERAGES, drawn_names, size_curves, size_picture

SETTING = CycleSetting(4, 0.6, "dense")


def scored(seed: int, noise: dict[str, float], *, cycle: int = 0, own: str = "quantile 0.99") -> ScoredCycle:
    """Scores that are the truth and noise; the halves have noise of their own."""
    generator = torch.Generator().manual_seed(seed)
    truth = torch.rand(40, generator=generator, dtype=torch.float64)
    scores = {
        name: truth + size * torch.rand(3, 40, generator=generator, dtype=torch.float64) for name, size in noise.items()
    }
    return ScoredCycle(SETTING, seed, cycle, 6, own, f"{seed}-{cycle}", scores)


NOISE = {"ablation": 0.0, "mean_square": 0.2, "quantile 0.99": 3.0, "quantile 0.999": 0.5}


def test_measures_by_hand() -> None:
    one = scored(0, NOISE)
    whole, first, second = one.scores["quantile 0.99"]
    reference = one.scores["ablation"][0]
    assert one.measure("quantile 0.99", "rank") == pytest.approx(spearmanr(whole, reference)[0])
    assert one.measure("quantile 0.99", "retest rank") == pytest.approx(spearmanr(first, second)[0])
    top = {int(i) for i in whole.topk(6).indices} & {int(i) for i in reference.topk(6).indices}
    assert one.measure("quantile 0.99", "overlap") == len(top) / 6
    assert one.measure("ablation", "overlap") == 1.0
    share = whole.sort(descending=True).values.cumsum(0) / whole.sum()
    assert one.measure("quantile 0.99", "size") == int((share < 0.6).sum()) + 1
    assert one.measure("frequency", "rank") is None
    assert best(torch.tensor([1.0, 2.0, 2.0, 0.0]), 2).tolist() == [1, 2]


def test_no_set_holds_a_latent_without_a_positive_score() -> None:
    """The halves score other latents, and nothing else: what they share by a score of 0 is no overlap."""
    whole = torch.zeros(40, dtype=torch.float64)
    whole[[20, 30, 31]] = torch.tensor([3.0, 2.0, 1.0], dtype=torch.float64)
    first, second = whole.clone(), whole.clone()
    first[[30, 31]], second[20] = 0, 0
    ablation = whole.clone()
    ablation[:5], ablation[31] = -1, -2
    scores = {"mean": torch.stack([whole, first, second]), "ablation": torch.stack([ablation] * 3)}
    scores |= {"max": torch.zeros(3, 40, dtype=torch.float64)}
    one = ScoredCycle(SETTING, 0, 0, 20, "mean", "key", scores)
    assert best(whole, 20).tolist() == [20, 30, 31] and best(whole, 2).tolist() == [20, 30]
    assert best(whole, 0).tolist() == [] and best(ablation, 20).tolist() == [20, 30]
    assert one.measure("mean", "retest overlap") == 0  # {20} and {30, 31}
    assert one.measure("mean", "overlap") == 2 / ((3 + 2) / 2)
    assert one.measure("max", "overlap") == 0 and one.measure("max", "retest overlap") is None
    assert one.measure("ablation", "overlap") == 1


def test_without_a_reference_scores_are_compared_with_themselves_alone() -> None:
    one = scored(0, {"mean_square": 0.2})
    assert one.measure("mean_square", "rank") is None and one.measure("mean_square", "overlap") is None
    assert one.measure("mean_square", "retest rank") is not None


def test_the_best_score_is_named_with_its_difference() -> None:
    agreement = Agreement([scored(seed, NOISE) for seed in range(5)])
    assert agreement.names[:2] == ["quantile 0.99", "quantile 0.999"] and agreement.names[-1] == "ablation"
    (line,) = score_findings(agreement)
    assert line.startswith("k=4 τ=0.6, cycle 0: mean_square agrees best with exact ablation, 0.9")
    assert "; the run's quantile 0.99 0." in line and "(difference +0." in line and "*" in line
    assert "of the quantiles quantile 0.999 0." in line
    two = score_findings(Agreement([scored(seed, NOISE) for seed in range(2)]))
    assert "*" not in two[0]


def test_seeds_that_were_given_one_sae_count_once() -> None:
    """distill.initial_sae: three seeds, one SAE; nothing is known of other SAEs then."""
    one = scored(0, NOISE)
    agreement = Agreement([replace(one, seed=seed) for seed in (21, 22, 23)])
    found = agreement.estimate(agreement.places[0], "quantile 0.999", "rank")
    assert (found.n, found.interval) == (1, None)
    assert agreement.lacks() == ["k=4 τ=0.6, cycle 0: seeds 21, 22, 23 have one SAE, and count once"]
    assert not any(d.shown for d in agreement.against("quantile 0.99").values())
    (row, *_) = score_tables(agreement)[0].rows
    assert row[3] == "1"
    assert Agreement([scored(seed, NOISE) for seed in (1, 2)]).lacks() == []


def test_settings_that_select_by_other_scores_are_named_each_with_its_own() -> None:
    """Their SAEs of cycle 0 are the same: sentences must not mix up the settings."""
    axes = ("frequency", "quantile 0.99")
    cycles = [
        replace(
            scored(seed, {**NOISE, "frequency": 2.0}), own=own, setting=replace(SETTING, axes=(("distill.score", own),))
        )
        for own in axes
        for seed in range(3)
    ]
    lines = score_findings(Agreement(cycles))
    assert len(lines) == 2
    for own, line in zip(axes, lines, strict=True):
        assert line.startswith(f"k=4 τ=0.6 score={own}, cycle 0: ") and f"the run's {own} " in line


def test_cells_of_fewer_seeds_say_their_n() -> None:
    """A constant score ranks nothing: the seed has no rank correlation."""
    cycles = [scored(seed, NOISE) for seed in range(3)]
    constant = torch.ones(3, 40, dtype=torch.float64)
    cycles[1] = replace(cycles[1], scores={**cycles[1].scores, "mean_square": constant})
    table = score_tables(Agreement(cycles))[0]
    row = next(dict(zip(table.names, row, strict=True)) for row in table.rows if row[2] == "mean_square")
    assert row["n"] == "3" and row["rank"].endswith("), n = 2") and not row["size"].endswith("n = 2")


def test_the_same_saes_at_another_coverage_are_told_once() -> None:
    cycles = [scored(seed, NOISE) for seed in range(3)]
    again = [ScoredCycle(CycleSetting(4, 0.9, "dense"), c.seed, 0, 20, c.own, c.key, c.scores) for c in cycles]
    agreement = Agreement([*cycles, *again])
    assert len(agreement.places) == 2 and len(score_findings(agreement)) == 1


def test_settings_that_share_all_are_one_place() -> None:
    """Cycle 0 has no core, so that a dense and a sparse one share it: neither rows nor corrections count twice."""
    cycles = [scored(seed, NOISE) for seed in range(3)]
    sparse = CycleSetting(4, 0.6, "sparse")
    again = [ScoredCycle(sparse, c.seed, 0, c.selected, c.own, c.key, c.scores) for c in cycles]
    alone, both = Agreement(cycles), Agreement([*cycles, *again])
    assert both.places == [(SETTING, 0, None)] and both.label(both.places[0]) == "k=4 τ=0.6 (and 1 more)"
    assert alone.label(alone.places[0]) == "k=4 τ=0.6" and both.against("quantile 0.99") == alone.against(
        "quantile 0.99"
    )
    other = [ScoredCycle(sparse, c.seed, 0, c.selected + 1, c.own, c.key, c.scores) for c in cycles]
    assert len(Agreement([*cycles, *other]).places) == 2


def test_another_pool_is_another_place() -> None:
    """Its numbers are those of its own scores, also where two settings share the SAEs."""
    cycles = [scored(seed, NOISE) for seed in range(3)]
    wide = [replace(scored(seed + 3, NOISE), seed=seed, key=f"{seed}-0-2", pool=2, chose=False) for seed in range(3)]
    sparse = [replace(c, setting=CycleSetting(4, 0.6, "sparse")) for c in (*cycles, *wide)]
    alone, both = Agreement(cycles), Agreement([*wide, *cycles, *sparse])
    labels = ["k=4 τ=0.6 (and 1 more)", "k=4 τ=0.6 (and 1 more), pool of 2 groups"]
    assert [both.label(place) for place in both.places] == labels
    assert [line.split(", cycle 0")[0] for line in score_findings(both)] == labels
    own, other = both.places
    assert both.values(own, "mean_square", "rank") == alone.values(alone.places[0], "mean_square", "rank")
    assert both.values(other, "mean_square", "rank") == {c.seed: c.measure("mean_square", "rank") for c in wide}
    first = [replace(c, pool=1) for c in cycles]
    assert Agreement(first).label(Agreement(first).places[0]).endswith(", pool of 1 group")


def held(scores: torch.Tensor) -> list[float]:
    """The share of the positive scores that the n best hold, n = 1, 2, …, added up one by one."""
    values = sorted((v for v in scores.tolist() if v > 0), reverse=True)
    return [sum(values[:n]) / sum(values) for n in range(1, len(values) + 1)]


def test_sizes_and_shares_of_a_score_are_one_curve(tmp_path: Path) -> None:
    """By the table, the numbers of each seed and the figure's CSV; negative scores are no part of the total."""
    cycles = [scored(seed, {**NOISE, "max": 1.0}) for seed in range(3)]
    for c in cycles:
        c.scores["ablation"][:, 25:] *= -1
        c.scores["max"].zero_()
    agreement = Agreement(cycles)
    (place,) = agreement.places
    curves = size_curves(agreement)
    for name in NOISE:
        curve, shares = curves[place, name], [held(c.scores[name][0]) for c in cycles]
        assert curve.seeds == (0, 1, 2) and (min(curve.shares), max(curve.shares)) == (1, 40)
        for tau, sizes in curve.latents.items():
            assert sizes == tuple(next(n for n, s in enumerate(one, 1) if s >= tau) for one in shares)
            chosen = [select_core(c.scores[name][0].clamp_min(0), tau) for c in cycles]
            assert sizes == tuple(len(core) for core in chosen)
        for n, values in curve.shares.items():
            assert values == pytest.approx([one[min(n, len(one)) - 1] for one in shares])
    silent = curves[place, "max"]  # it selects nothing, and has no total to share out
    assert set(silent.latents.values()) == {(0, 0, 0)} and set(silent.shares.values()) == {(None, None, None)}
    page = write_scores(cycles, tmp_path, name="one", settings={})
    numbers = json.loads((tmp_path / "scores.json").read_text())
    (found,) = (c for c in numbers["curves"] if c["score"] == "ablation")
    sizes = [next(n for n, s in enumerate(held(c.scores["ablation"][0]), 1) if s >= 0.7) for c in cycles]
    assert found["latents"]["0.7"] == sizes and found["seeds"] == [0, 1, 2] and found["shares"]["40"] == [1, 1, 1]
    (cells,) = (r for r in numbers["rows"] if r["score"] == "ablation" and "τ = 0.7" in r)
    assert cells["τ = 0.7"] == estimate(sizes, "amount").text(0) and {"τ = 0.3", "τ = 0.5", "τ = 0.9"} < cells.keys()
    rows = list(csv.DictReader((tmp_path / "score_sizes.csv").open()))
    (row,) = (
        r for r in rows if r["score"] == "ablation" and r["quantity"] == "latents at coverage" and r["at"] == "0.7"
    )
    assert float(row["mean"]) == pytest.approx(sum(sizes) / 3, rel=1e-5) and row["seeds"] == " ".join(map(str, sizes))
    assert {r["score"] for r in rows} == {*NOISE, "max"} and "How many latents a score asks for" in page.read_text()


def test_the_figure_of_sizes_has_the_main_scores_only() -> None:
    plain = ("quantile 0.9", "quantile 0.99", "mean_square", "mean", "frequency")
    more = ("quantile 0.9 (BatchTopK)", "mean, least of 4", "random", "ablation, text", "trimmed_mean 0.8")
    every = dict.fromkeys((*plain, *more, "ablation"), 0.5)
    agreement = Agreement([scored(seed, every, own="trimmed_mean 0.8") for seed in range(2)])
    assert set(drawn_names(agreement, agreement.places[0])) == {*plain, "ablation", "trimmed_mean 0.8"}
    curves = size_curves(agreement)
    picture = size_picture(agreement, curves)
    assert picture is not None and {row[2] for row in picture.rows} == every.keys()
    (axis,) = picture.draw().axes
    labels = axis.get_legend_handles_labels()[1]
    assert sorted(labels) == sorted([*plain, "ablation", "trimmed_mean 0.8", "coverage τ of the setting"])
    (line,) = (line for line in axis.lines if line.get_label() == "mean_square")
    means = [sum(sizes) / 2 for sizes in curves[agreement.places[0], "mean_square"].latents.values()]
    assert list(line.get_ydata()) == means and list(line.get_xdata()) == list(COVERAGES)
    masked = dict.fromkeys(("mean (BatchTopK)", "mean (BatchTopK), least of 4", "ablation"), 0.5)
    other = Agreement([scored(0, masked, own="mean (BatchTopK)")])
    assert set(drawn_names(other, other.places[0])) == {"mean (BatchTopK)", "ablation"}


def test_the_files(tmp_path: Path) -> None:
    cycles = [scored(seed, NOISE, cycle=cycle) for seed in range(3) for cycle in (0, 1)]
    page = write_scores(cycles, tmp_path, name="a<b", settings={"contexts": 3})
    html = page.read_text()
    assert "a&lt;b" in html and html.count("<figure") == 2 and "cycle 1" in html
    numbers = json.loads((tmp_path / "scores.json").read_text())
    assert numbers["settings"] == {"contexts": 3} and len(numbers["findings"]) == 2
    for name in ("scores.png", "score_sizes.png"):
        assert (tmp_path / name).stat().st_size > 5000 and f"]({name})" in (tmp_path / "scores.md").read_text()
    rows = (tmp_path / "scores.csv").read_text().splitlines()
    assert len(rows) == 1 + 2 * 4 * 5  # cycles, scores, measures
