"""The sentence that says what a sweep found: with its figures, and no more than they show."""

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from dmsae_ray.report.comparison import comparison_table
from dmsae_ray.report.panels import n_of_panel, n_text, seeds_text
from dmsae_ray.report.report import make_report
from tests.report.summaries import make_summary, write_transfer, write_trial


def write(sweep: Path, summary: dict[str, Any], carryover: float | None = None, control: float | None = None) -> None:
    """Write a summary, with other shares in its last cycle if they are given."""
    last = summary["records"][-1]
    if carryover is not None:
        last["carryover"], last["carried"] = carryover, round(carryover * last["n_core_in"])
    if control is not None:
        summary["controls"]["gaussian"]["carryover"] = control
    folder = sweep / "trials" / summary["trial_id"]
    folder.mkdir(parents=True)
    (folder / "summary.json").write_text(json.dumps(summary))


def collapsed(seed: int) -> dict[str, Any]:
    summary = make_summary(8, 0.9, seed, cycles=1)
    record = summary["records"][0] | {"collapsed": "all_scores_zero", "n_core": 0}
    summary |= {"records": [record], "controls": {}, "core_sizes": [0], "distilled_size": 0, "survival": {}}
    return summary | {"collapsed_at": 0, "collapse": "all_scores_zero"}


def test_three_seeds_ahead_of_the_control(tmp_path: Path) -> None:
    for seed, own in enumerate((0.80, 0.84, 0.88)):
        write(tmp_path, make_summary(8, 0.9, seed), own, own - 0.40 - 0.01 * seed)
    (one,) = make_report(tmp_path).cycles
    text = make_report(tmp_path).finding()
    assert text.startswith("With k = 8, τ = 0.9, 84% [95% interval ") and text.endswith("paired by seed.")
    last = [make_summary(8, 0.9, seed)["records"][-1] for seed in range(3)]
    assert f"of {sum(r['n_core_in'] for r in last)} latents over 3 seeds" in text
    assert f"chance is {np.mean([r['chance'] for r in last]):.0%}" in text
    assert one.controls["gaussian"].percent() in text and "the core is ahead by +41 points [+39, +43]" in text


def test_a_control_that_does_as_well_is_said(tmp_path: Path) -> None:
    for seed, control in enumerate((0.7, 0.9, 0.8)):
        write(tmp_path, make_summary(8, 0.9, seed), 0.8, control)
    assert "no difference is shown (+0 points [" in make_report(tmp_path).finding()


def test_a_control_that_does_better_is_said(tmp_path: Path) -> None:
    for seed, own in enumerate((0.50, 0.52, 0.54)):
        write(tmp_path, make_summary(8, 0.9, seed), own, 0.9)
    assert "the control is ahead (-38 points [-43, -33], paired by seed)" in make_report(tmp_path).finding()


def test_a_control_that_is_not_matched_in_norm_is_no_rival(tmp_path: Path) -> None:
    """Alone it is named as what it is; beside a matched one it is not the best of them, however well it does."""
    for seed in range(3):
        summary = make_summary(8, 0.9, seed)
        summary["controls"]["gaussian_unit"] = {**summary["controls"]["gaussian"], "carryover": 0.95}
        write(tmp_path / "both", summary, 0.9, 0.5)
        del summary["controls"]["gaussian"]
        write(tmp_path / "alone", summary, 0.9)
    assert "the gaussian control, matched in norm, has 50%" in make_report(tmp_path / "both").finding()
    assert "the gaussian unit control, of norm 1, has 95%" in make_report(tmp_path / "alone").finding()


def test_one_seed_claims_nothing(tmp_path: Path) -> None:
    write(tmp_path, make_summary(8, 0.9, 0), 0.9, 0.3)
    text = make_report(tmp_path).finding()
    assert (
        "one seed says nothing about the difference of +60 points" in text and "[" not in text and "; one seed" in text
    )


def test_collapsed_seeds_are_counted_once_and_are_in_no_number(tmp_path: Path) -> None:
    for seed in range(2):
        write(tmp_path, make_summary(8, 0.9, seed), 0.8, 0.3)
    whole = make_report(tmp_path)
    write(tmp_path, collapsed(2))
    report = make_report(tmp_path)
    assert report.finding() == f"{whole.finding()} 1 more trial collapsed and is in no figure."
    (one,), (before,) = report.cycles, whole.cycles
    assert one.seeds == (0, 1) and list(one.collapsed) == [2]
    assert (one.core_sizes, one.carryovers, one.distilled_size) == (
        before.core_sizes,
        before.carryovers,
        before.distilled_size,
    )
    with_n = [table for table in report.tables if "n" in table.names]
    assert len(with_n) == 6
    for table in (*with_n, comparison_table([("here", report), ("there", report)])):
        n = table.rows[0][table.names.index("n")]
        row = dict(zip(table.names, table.rows[0], strict=True))
        assert n == "2 (1 collapsed)" or (n, row["not in n, or so far"]) == ("2", "1 collapsed"), table.title
    assert n_of_panel(one).endswith("n = 2 (1 collapsed)")
    for text in (seeds_text([one]), n_text([one])):
        assert text.startswith("n = 2") and "(1 collapsed, in no number)" in text
    console = Console(width=80, record=True, file=io.StringIO())
    console.print(report.rich())
    assert max(len(line.rstrip()) for line in console.export_text().splitlines()) <= 80


def test_a_setting_whose_seeds_all_collapsed_is_a_row_of_a_comparison(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write(tmp_path / name, make_summary(8, 0.9, 0) if name == "a" else collapsed(0))
    table = comparison_table([(name, make_report(tmp_path / name)) for name in ("a", "b")])
    assert [row[table.names.index("n")] for row in table.rows] == ["1", "0 (1 collapsed)"]


def test_the_cost_of_the_method_is_told_apart_from_that_of_its_controls(tmp_path: Path) -> None:
    """Four cycles and one control of 3e12 FLOP each."""
    write(tmp_path, make_summary(8, 0.9, 0), 0.8, 0.3)
    (one,) = make_report(tmp_path).cycles
    assert (one.flops.mean, one.trial_flops.mean, one.control_flops.mean) == (3e12, 12e12, 3e12)
    table = next(t for t in make_report(tmp_path).tables if t.title == "Time and FLOP")
    row = dict(zip(table.names, table.rows[0], strict=True))
    assert (row["FLOP of all cycles"], row["FLOP of the controls"]) == ("1.20e+13", "3.00e+12")


def test_only_collapses(tmp_path: Path) -> None:
    for seed in range(2):
        write(tmp_path, collapsed(seed))
    text = make_report(tmp_path).finding()
    assert text == "No core came back: every seed collapsed (2 trials: all_scores_zero in cycle 0)."


def test_several_settings_are_given_from_least_to_most(tmp_path: Path) -> None:
    for seed in range(3):
        for k, own in ((4, 0.6), (8, 0.9)):
            write(tmp_path, make_summary(k, 0.9, seed), own + 0.01 * seed, 0.65)
    text = make_report(tmp_path).finding()
    assert "In 2 settings (3 seeds each), 61% (k = 4, τ = 0.9) to 91% (k = 8, τ = 0.9)" in text
    assert text.endswith(
        "has 65%. The core is ahead in 1 of 2 settings, in 1 with a 95% interval of the paired difference above 0; "
        "in 1 the control is ahead in the same sense."
    )


def test_transfers_alone_say_that_l0_differs(tmp_path: Path) -> None:
    for arm in ("distilled", "gaussian", "baseline"):
        write_transfer(tmp_path, 20, arm, "dense", 0)
    text = make_report(tmp_path).finding()
    assert text.startswith("With k = 20, the share of variance left unexplained is ") and "came back" not in text
    for words in (
        "around the distilled core (dense, measured L0 25.0)",
        "without a core",
        "(1 seed)",
        "only the curves",
    ):
        assert words in text, words


def test_budgets_are_kept_apart_and_compute_is_said(tmp_path: Path) -> None:
    write_transfer(tmp_path, 20, "distilled", "dense", 0, made=5)
    write_transfer(tmp_path, 20, "baseline", "dense", 0)
    write_transfer(tmp_path, 20, "baseline", "dense", 0, budget=9)
    report = make_report(tmp_path)
    text = report.finding()
    assert "without a core (measured L0 20.0)" in text
    assert "without a core (9 times the tokens, measured L0 20.0)" in text
    assert text.endswith(
        "The training FLOP of an SAE around the distilled core, in brackets with the 5 trainings that made the core, "
        "is 1.00 (6.00) times that of a baseline and 0.11 (0.67) times that of a baseline with 9 times the tokens."
    )
    tables = {table.title: table for table in report.tables}
    assert [row[1] for row in tables["Transfer"].rows] == ["none", "none (9 times the tokens)", "distilled (dense)"]
    cost = tables["Time and FLOP"]
    assert cost.names[-1] == "FLOP with the core's trainings"
    assert [(row[0], row[-1]) for row in cost.rows] == [
        ("k=20 baseline", "3.00e+12"),
        ("k=20 baseline, 9 times the tokens", "2.70e+13"),
        ("k=20 dense distilled", "1.80e+13"),
    ]


def test_a_sweep_without_controls(tmp_path: Path) -> None:
    write_trial(tmp_path, 8, 0.9, 0)
    path = next(tmp_path.glob("trials/*/summary.json"))
    path.write_text(json.dumps(json.loads(path.read_text()) | {"controls": {}}))
    assert make_report(tmp_path).finding().endswith("there is no control.")
