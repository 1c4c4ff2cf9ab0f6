"""The page of findings says what its result files say, and the files what their replicas say."""

import json
import re
from pathlib import Path

import pytest

from dmsae_ray.groundtruth import REGIMES, Replica
from dmsae_ray.report import KnownFeatures, findings
from dmsae_ray.report.estimates import Scale, estimate
from dmsae_ray.report.paired import holm, paired, signed

FOLDER = Path(__file__).parents[2] / "sweeps" / "findings"
PAGE = (FOLDER / "README.md").read_text()


@pytest.fixture(scope="module")
def known() -> KnownFeatures:
    return KnownFeatures(
        [Replica.from_dict(r) for r in json.loads((FOLDER / "groundtruth.json").read_text())["replicas"]]
    )


def row(name: str, cells: list[str]) -> str:
    return f"| {name} | " + " | ".join(cells) + " |"


def test_the_result_file_says_what_its_replicas_say(known: KnownFeatures) -> None:
    assert json.loads((FOLDER / "groundtruth.json").read_text())["findings"] == findings(known)
    assert known.regimes == list(REGIMES) and {r.seed for r in known.replicas} == set(range(6))


def test_the_tables_of_the_benchmark_are_those_of_the_result_file(known: KnownFeatures) -> None:
    differences = known.differences("importance")
    for variant in ("dense", "sparse"):
        for text in ("distilled - best of C_0", "last core - best of the dictionary by mean_square"):
            assert row(f"{variant}: {text}", [differences[r, variant, text].text() for r in known.regimes]) in PAGE
    for score in ("quantile 0.99", "quantile 0.999", "mean_square", "ablation", "ablation, spliced"):
        scales: tuple[tuple[str, Scale], ...] = (("dictionary", "difference"), ("best", "share"))
        for over, scale in scales:
            cells = [estimate(known.score(r, score, over).values(), scale).text() for r in known.regimes]
            assert row(score, cells) in PAGE
    for variant in ("dense", "sparse"):
        changes = next(line for line in findings(known) if line.startswith("Share of a core's decoder rows"))
        for regime in known.regimes:
            said = re.search(rf"{variant}, which.*?{regime} (\S+ \[[^\]]*\])", changes)
            assert said is not None and said[1] in PAGE


def test_what_the_cycles_leave_is_that_of_the_survivors() -> None:
    trials = json.loads((FOLDER / "chains.json").read_text())["trials"]
    arms, cells, found = ("core", "gaussian", "random_latents"), {}, {}
    for variant in ("dense", "sparse"):
        own = [t for t in trials if t["core_sparsity"] == variant]
        assert [t["seed"] for t in own] == list(range(6))
        shares = {arm: {t["seed"]: t[arm][-1] / t[arm][0] for t in own} for arm in arms}
        for arm in arms:
            left, of = (sum(t[arm][at] for t in own) for at in (-1, 0))
            cells[variant, arm] = f"{estimate(shares[arm].values(), 'share').percent()}, {left} of {of}"
        found |= {(variant, arm): paired(shares["core"], shares[arm], 1) for arm in arms[1:]}
        both, of = sum(t["among_best"] for t in own), sum(t["distilled"] for t in own)
        best = estimate((t["among_best"] / t["distilled"] for t in own), "share").text()
        chance = estimate((t["distilled"] / t["core"][0] for t in own), "share").text()
        assert f"{both} of {of}" in PAGE and best in PAGE and f"by chance {chance}" in PAGE
    over = dict(zip(found, (d.text() for d in holm(list(found.values()))), strict=True))
    for variant in ("dense", "sparse"):
        beside = [text for arm in arms[1:] for text in (cells[variant, arm], over[variant, arm])]
        assert row(variant, [cells[variant, "core"], *beside]) in PAGE


@pytest.mark.parametrize("variant", ["dense", "sparse"])
def test_the_numbers_of_rediscovery_are_those_of_the_result_files(variant: str) -> None:
    again = json.loads((FOLDER / f"stability_{variant}.json").read_text())["again"]
    cells = []
    for name in (
        "distilled",
        "distilled, in cycle 0",
        "best of cycle 0",
        "most frequent",
        "random of the pool",
        "matched frequency",
        "chance",
    ):
        by_seed: dict[int, list[float]] = {}
        for a in again:
            if a["set"] == name:
                by_seed.setdefault(a["seed"], []).append(a["mean"]["activations"])
        assert len(by_seed) == 6 and all(len(values) == 5 for values in by_seed.values())
        cells.append(estimate(sum(values) / len(values) for values in by_seed.values()).text())
    assert row(f"{variant} core", cells) in PAGE
    tree = json.loads((FOLDER / f"stability_{variant}.json").read_text())
    said = re.search(r"Of (\d+) latents .* have (\d+) always, .* (\d+) never", tree["findings"][-1])
    assert said is not None
    of, always, never = said.groups()
    short = {
        "sparse": f"Of {of} latents of the sparse cores the other seeds have {always} always, {never} never",
        "dense": f"of {of} of\nthe dense ones {always} and {never}.",
    }
    assert short[variant] in PAGE


def test_the_numbers_of_scores_are_those_of_the_result_file() -> None:
    tree = json.loads((FOLDER / "scores.json").read_text())
    for name in ("quantile 0.99", "quantile 0.999", "mean", "mean_square", "frequency", "ablation, text", "random"):
        (found,) = (r for r in tree["rows"] if r["score"] == name and "rank" in r)
        assert row(name, [found[column] for column in ("rank", "overlap", "retest rank", "size")]) in PAGE
    assert "(difference +0.14* [+0.06, +0.22])" in tree["findings"][0] and "+0.14* [+0.06, +0.22]" in PAGE


def test_the_numbers_of_masks_and_parts_are_those_of_the_result_file() -> None:
    tree = json.loads((FOLDER / "scores_options.json").read_text())
    rows = {r["score"]: r for r in tree["rows"] if "rank" in r}
    for score in ("quantile 0.99", "mean_square"):
        for option in ("", " (BatchTopK)", ", least of 4", " (BatchTopK), least of 4"):
            found = rows[score + option]
            assert row(score + option, [found[column] for column in ("rank", "overlap", "retest rank", "size")]) in PAGE
    integrated = rows["integrated gradients"]
    assert f"rank {integrated['rank']}, overlap {integrated['overlap']}" in PAGE and integrated["retest rank"] in PAGE
    (over,) = (r["difference"] for r in tree["rows"] if r["score"] == "integrated gradients" and "difference" in r)
    assert f"{over} over q = 0.99" in PAGE


@pytest.mark.parametrize("variant", ["dense", "sparse"])
def test_the_numbers_of_quality_are_those_of_the_result_files(variant: str) -> None:
    tree = json.loads((FOLDER / f"quality_{variant}.json").read_text())
    names = ("own/loss_recovered", "own/kl", "own/fvu", "own/dead_share", "own/nearest_cosine")
    for rival, label in (("no core", "no core"), (f"gaussian core, {variant}, τ = 0.9", "random core")):
        found = [r for name in names for r in tree["at_equal_l0"] if (r["number"], r["rival"]) == (name, rival)]
        cells = [
            f"{signed(r['mean'], 3)}{'*' if r['is'] else ''} [{signed(r['low'], 3)}, {signed(r['high'], 3)}]"
            for r in found
        ]
        assert len(cells) == 5 and row(f"{variant} core - {label}", cells) in PAGE
        for r in found:  # what the file says of the seeds is what they say
            assert sum(r["values"]) / len(r["values"]) == pytest.approx(r["mean"]) and r["n"] == 3


def test_the_numbers_of_transfers_are_those_of_the_result_file() -> None:
    tree = json.loads((FOLDER / "quality_transfer.json").read_text())
    names = ("own/loss_recovered", "own/kl", "own/fvu", "own/dead_share", "own/nearest_cosine")
    for variant in ("dense", "sparse"):
        for rival, label in (("no core", "no core"), (f"gaussian core, {variant}", "random core")):
            places = [(name, f"distilled core, {variant}", rival) for name in names]
            found = [r for p in places for r in tree["at_equal_l0"] if (r["number"], r["arm"], r["rival"]) == p]
            cells = [
                f"{signed(r['mean'], 3)}{'*' if r['is'] else ''} [{signed(r['low'], 3)}, {signed(r['high'], 3)}]"
                for r in found
            ]
            assert len(cells) == 5 and row(f"{variant} core - {label}", cells) in PAGE
            assert {r["n"] for r in found} == {3}


def test_every_link_and_picture_is_there() -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", PAGE):
        assert (FOLDER / target).is_file(), target
