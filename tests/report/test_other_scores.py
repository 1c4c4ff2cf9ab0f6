"""What other scores say of a selection, by hand-made summaries."""

import json
from pathlib import Path

import pytest

from dmsae_ray.report.other_scores import ablation_overlaps
from dmsae_ray.report.report import make_report
from dmsae_ray.results import load_results

from .summaries import make_summary


def write(folder: Path, seed: int, distilled: list[list[int]], by_square: float | None) -> None:
    summary = make_summary(4, 0.9, seed)
    summary["lineage"][0] = [[0, 7], [0, 3], [0, 5], [0, 1]]  # in the order of cycle 0's scores
    summary["core_sizes"][0] = 4
    summary |= {"distilled_lineage": distilled, "distilled_size": len(distilled)}
    summary["records"][-1]["by_square"] = by_square
    place = folder / "trials" / summary["trial_id"]
    place.mkdir(parents=True)
    (place / "summary.json").write_text(json.dumps(summary))


def cells(folder: Path) -> dict[str, str]:
    (table,) = [t for t in make_report(folder).tables if t.title == "What other scores say of the selection"]
    return dict(zip(table.names, table.rows[0], strict=True))


def test_the_distilled_core_stands_beside_the_best_of_cycle_0(tmp_path: Path) -> None:
    write(tmp_path, 0, [[0, 3], [0, 1]], 0.5)  # of the two best, 7 and 3, it has one
    write(tmp_path, 1, [[0, 7], [0, 3], [0, 1]], 1.0)  # of the three best, 7, 3 and 5, it has two
    found = cells(tmp_path)
    assert [r.among_best for r in load_results(tmp_path)] == [(1, 2), (2, 3)]
    assert (found["among the best of C_0"], found["latents"]) == ("0.58 (0.50, 0.67)", "3 of 5")
    assert found["chance"] == "0.62 (0.50, 0.75)" and found["as mean square"] == "0.75 (0.50, 1.00)"
    assert found["retest"].startswith("0.78") and found["distilled"] == "2.5 (2.0, 3.0)"
    assert "as ablation" not in found


def test_later_births_are_not_compared_with_cycle_0(tmp_path: Path) -> None:
    """With distill.min_cycles the distilled core may have more latents than C_0."""
    later = [[2, at] for at in range(9)]
    write(tmp_path, 0, [*later, [0, 3], [0, 1]], None)
    write(tmp_path, 1, later, None)  # nothing of it is in C_0
    found = cells(tmp_path)
    assert [r.among_best for r in load_results(tmp_path)] == [(1, 2), (0, 0)]
    assert (found["among the best of C_0"], found["latents"]) == ("0.50, n = 1", "1 of 2")
    assert (found["chance"], found["distilled"]) == ("0.50", "10.0 (11.0, 9.0)")


def test_what_ablation_says_is_there_when_it_was_measured(tmp_path: Path) -> None:
    write(tmp_path, 0, [[0, 7]], None)
    write(tmp_path, 1, [[0, 7]], 0.5)
    overlaps = [
        {"setting": "k=4 τ=0.9", "cycle": 3, "seed": 0, "overlap": 0.61},
        {"setting": "k=4 τ=0.9", "cycle": 0, "seed": 0, "overlap": 0.22},
        {"setting": "k=4 τ=0.5", "cycle": 3, "seed": 1, "overlap": 0.99},
    ]
    (tmp_path / "scores.json").write_text(json.dumps({"overlaps": overlaps}))
    found = cells(tmp_path)
    assert found["as ablation"] == "0.61, n = 1" and found["as mean square"] == "0.50, n = 1"


@pytest.mark.parametrize("content", [None, "", "[]", "{}", '{"overlaps": [{"overlap": "1", "cycle": 0}]}'])
def test_a_file_of_scores_that_says_nothing_is_none(tmp_path: Path, content: str | None) -> None:
    if content is not None:
        (tmp_path / "scores.json").write_text(content)
    assert ablation_overlaps(tmp_path) == {}
