"""The figures: every one with a caption and its numbers, and these numbers those of the summaries."""

import csv
import json
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

from dmsae_ray.distill import CycleReport, DirectoryCycleStore, LineageId
from dmsae_ray.distill.core import Core, save_core
from dmsae_ray.files import Folder
from dmsae_ray.report.core_figures import which_fires_more
from dmsae_ray.report.curves import Band
from dmsae_ray.report.cycle_figures import lineage, selected_sets, survival
from dmsae_ray.report.estimates import estimate
from dmsae_ray.report.figures import MAKERS
from dmsae_ray.report.picture import OLDER, Picture
from dmsae_ray.report.report import make_report
from dmsae_ray.report.score_curves import coverage_curves, cumulative_shares
from dmsae_ray.report.setting_figures import carryover, cost, coverage, heat_maps
from dmsae_ray.results.trial import load_results
from tests.report.summaries import make_summary, write_trial

KS, TAUS, SEEDS = (4, 6), (0.5, 0.9), (0, 1, 2)


@pytest.fixture(scope="module")
def grid(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("grid") / "grid-12345678"
    for k in KS:
        for tau in TAUS:
            for seed in SEEDS:
                write_trial(folder, k, tau, seed)
    return folder


def rows_of(picture: Picture | str | None) -> list[dict[str, str]]:
    assert isinstance(picture, Picture)
    return list(csv.DictReader(picture.csv().splitlines()))


def test_numbers_of_figures_are_those_of_the_summaries(grid: Path) -> None:
    report = make_report(grid)
    summaries = {(k, t): [make_summary(k, t, s) for s in SEEDS] for k in KS for t in TAUS}

    def of(row: dict[str, str]) -> list[dict]:  # type: ignore[type-arg]
        return summaries[int(row["k"]), float(row["coverage"])]

    found = [row for row in rows_of(carryover(report, grid)) if row["core"] == "distilled"]
    assert len(found) == len(summaries)
    for row in found:
        own = np.array([s["records"][-1]["carryover"] for s in of(row)])
        assert float(row["carryover mean"]) == pytest.approx(own.mean(), rel=1e-5)
        assert [float(v) for v in row["carryover seeds"].split()] == pytest.approx(own.tolist(), rel=1e-5)
    again = [row for row in rows_of(carryover(report, grid)) if row["core"] == "test-retest"]
    assert [float(row["carryover mean"]) for row in again] == pytest.approx(
        [s[0]["records"][-1]["retest"] for s in map(of, again)]
    )
    for row in rows_of(selected_sets(report, grid)):
        name = {"core size": "n_core", "selected again": "carried"}[row["quantity"]]
        own = np.array([s["records"][int(row["cycle"])][name] or 0 for s in of(row)])
        assert float(row["mean"]) == pytest.approx(own.mean(), rel=1e-5)
    sizes: dict[tuple[str, str, str], float] = defaultdict(float)
    for row in rows_of(lineage(report, grid)):
        sizes[row["k"], row["coverage"], row["cycle"]] += float(row["mean"])
    for (k, tau, cycle), total in sizes.items():
        core = [s["core_sizes"][int(cycle)] for s in summaries[int(k), float(tau)]]
        assert total == pytest.approx(np.mean(core), rel=1e-4), "the cohorts of a cycle are its core"
    for row in rows_of(survival(report, grid)):
        alive = [s["survival"].get(row["born in cycle"]) for s in of(row)]
        age = int(row["cycle"]) - int(row["born in cycle"])
        assert float(row["mean"]) == pytest.approx(np.mean([a[age] / a[0] for a in alive if a]), abs=1e-5)
    for row in rows_of(coverage(report, grid)):
        own = np.array([s["records"][0 if row["cycle"] == "0" else -1]["metrics"][row["metric"]] for s in of(row)])
        assert float(row["mean"]) == pytest.approx(own.mean(), rel=1e-5)
    for row in rows_of(heat_maps(report, grid)):
        if row["quantity"].startswith("carryover minus"):
            own = np.array([s["records"][-1]["carryover"] - s["controls"]["gaussian"]["carryover"] for s in of(row)])
            assert float(row["mean"]) == pytest.approx(own.mean(), rel=1e-4)


def test_every_figure_has_a_caption_that_says_n(grid: Path) -> None:
    report = make_report(grid)
    pictures = [made for make in MAKERS if isinstance(made := make(report, grid), Picture)]
    assert len(pictures) >= 7
    for picture in pictures:
        assert "n = 3" in picture.caption and picture.caption.endswith("."), picture.name
        assert (
            picture.rows and len({len(row) for row in picture.rows}) == 1 and len(picture.head) == len(picture.rows[0])
        )


def test_every_legend_lies_within_its_figure(grid: Path) -> None:
    report, legends = make_report(grid), 0
    for picture in (made for make in MAKERS if isinstance(made := make(report, grid), Picture)):
        figure = picture.draw()
        figure.canvas.draw()
        for legend in (*figure.legends, *(axis.get_legend() for axis in figure.axes if axis.get_legend())):
            box = legend.get_window_extent()
            assert box.x0 >= 0 and box.x1 <= figure.bbox.width, f"{picture.name}: {box}"
            legends += 1
    assert legends >= 5


def test_titles_of_panels_lie_within_the_figure(tmp_path: Path) -> None:
    """Settings with further axes have long names."""
    for sparsity in ("dense", "sparse"):
        for seed in SEEDS:
            summary = make_summary(4, 0.5, seed)
            summary["params"] |= {"sae.core_sparsity": sparsity, "distill.pool_groups": 2}
            folder = tmp_path / "trials" / f"{sparsity}{seed}"
            folder.mkdir(parents=True)
            (folder / "summary.json").write_text(json.dumps(summary))
    report, long = make_report(tmp_path), 0
    for picture in (made for make in MAKERS if isinstance(made := make(report, tmp_path), Picture)):
        figure = picture.draw()
        figure.canvas.draw()
        for axis in figure.axes:
            box = axis.title.get_window_extent()
            assert box.x0 >= 0 and box.x1 <= figure.bbox.width, f"{picture.name}: {axis.get_title()}"
            long += "\n" in axis.get_title()
    assert long >= 6


def test_a_figure_is_drawn_again_only_where_its_numbers_changed(grid: Path, tmp_path: Path) -> None:
    picture = cost(make_report(grid), grid)
    assert isinstance(picture, Picture)
    assert picture.write(tmp_path, "none") is None
    drawn = picture.write(tmp_path)
    assert drawn is not None
    first = [path.read_bytes() for path in drawn.files]
    drawn.png.write_bytes(b"old")
    picture.write(tmp_path, "changed")
    assert drawn.png.read_bytes() == b"old"
    drawn.csv.write_text("other numbers\n")
    older = picture.write(tmp_path, "none")
    assert older is not None and older.caption == OLDER and OLDER in older.html() and older.png.read_bytes() == b"old"
    again = picture.write(tmp_path, "changed")
    assert again is not None and again.caption == picture.caption
    assert [path.read_bytes() for path in drawn.files] == first, "equal numbers give equal bytes"


def test_settings_without_a_panel_are_said(tmp_path: Path) -> None:
    for k in range(2, 16):
        write_trial(tmp_path, k, 0.5, 0, cycles=1)
    picture = selected_sets(make_report(tmp_path), tmp_path)
    assert isinstance(picture, Picture)
    assert "12 of 14 settings" in picture.caption and {row[0] for row in picture.rows} == set(range(2, 16))


def test_costs_that_are_equal_by_construction_are_a_sentence(grid: Path) -> None:
    picture = cost(make_report(grid), grid)
    assert isinstance(picture, Picture) and "Every cycle costs 3.0e12 FLOP by construction" in picture.caption
    assert len([axis for axis in picture.draw().axes if axis.get_xlabel()]) == 1


FIRST = {"quantile": 0.99, "score": "quantile", "pool_groups": 1}


def test_coverage_curves_are_those_of_the_stored_scores(tmp_path: Path) -> None:
    scores = {"0distilled": np.array([1.0, 5.0, 0.0, 4.0]), "1distilled": np.array([2.0, 2.0, 4.0])}
    for key, values in scores.items():
        (tmp_path / key).mkdir()
        save_file({"scores": values, "frequency": values}, tmp_path / key / "tensors.safetensors")
        (tmp_path / key / "outcome.json").write_text(json.dumps({"scoring": FIRST}))
    write_trial(tmp_path / "s", 4, 0.5, 0, cycles=1)
    (result,) = load_results(tmp_path / "s")
    store = Folder(str(tmp_path))
    shares = [cumulative_shares(store, report) for report in result.reports]
    assert shares[0] is not None and shares[0].tolist() == pytest.approx([0.5, 0.9, 1.0, 1.0])
    curves = coverage_curves([result], store)
    assert curves[1][0] == [1, 2, 3] and [e.mean for e in curves[1][1]] == pytest.approx([0.5, 0.75, 1.0])
    # A sweep by another quantile is shown by its own scores; those that it has not are left out.
    path = tmp_path / "s" / "trials" / result.trial_id / "core.safetensors"
    save_core(Core(torch.ones(1, 4), (LineageId(0, 0),), {"quantile": 0.5, "score": "quantile"}), path)
    DirectoryCycleStore(tmp_path).save_scores("1distilled", {**FIRST, "quantile": 0.5}, torch.tensor([6.0, 2.0, 2.0]))
    other = coverage_curves([result], store)
    assert list(other) == [1] and [e.mean for e in other[1][1]] == pytest.approx([0.6, 0.8, 1.0])
    path.unlink()
    (tmp_path / "1distilled" / "tensors.safetensors").write_bytes(b"damaged")
    assert list(coverage_curves([result], store)) == [0]


@pytest.mark.parametrize(
    ("own", "control", "said"),
    [(3.0, 5.0, "here it is the reverse"), (5.0, 3.0, "here the direction is the same")],
)
def test_figure_3_says_which_core_fires_more(own: float, control: float, said: str) -> None:
    bands = {"k=4 τ=0.5": {"distilled": Band([1], [estimate([own])]), "gaussian": Band([1], [estimate([control])])}}
    text = which_fires_more(bands)
    assert said in text and ("distilled" if own > control else "control") in text.split(".")[0]
    bands["k=8 τ=0.5"] = {"distilled": Band([1], [estimate([4.0])]), "gaussian": Band([1], [estimate([4.5])])}
    assert ("2 of 2" if control > own else "1 of 2") in which_fires_more(bands)


def test_summaries_hold_what_cycle_reports_have() -> None:
    assert set(json.loads(json.dumps(make_summary(4, 0.9, 0)["records"][0]))) == set(CycleReport.__dataclass_fields__)
