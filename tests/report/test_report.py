"""Report and figures from summaries whose numbers are known."""

import io
import json
import math
import re
from pathlib import Path

import numpy as np
import pytest
from mlflow import MlflowClient
from PIL import Image
from rich.console import Console

from dmsae_ray.errors import DataError
from dmsae_ray.report.curves import final_cycle_bands
from dmsae_ray.report.publishing import publish
from dmsae_ray.report.report import Report, make_report
from dmsae_ray.results.reports import TrialReport
from dmsae_ray.results.trial import load_results
from dmsae_ray.tracking.names import cycle_numbers
from dmsae_ray.tracking.tracker import SweepTracker
from dmsae_ray.tracking.trial_records import TrialRecords
from tests.mlflow_stores import runs
from tests.report.summaries import BATCH, CYCLES, STEPS, make_summary, make_windows, write_transfer, write_trial


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Report, list[Path]]:
    """A sweep folder with its report."""
    folder = tmp_path_factory.mktemp("sweeps") / "demo-12345678"
    for seed in range(3):
        for coverage in (0.5, 0.9):
            write_trial(folder, 4, coverage, seed)
    return (folder, *publish(folder))


def test_report_holds_the_summaries_numbers(published: tuple[Path, Report, list[Path]]) -> None:
    sweep, _, _ = published
    summaries = [make_summary(4, 0.9, seed) for seed in range(3)]
    (found,) = [a for a in json.loads((sweep / "report.json").read_text())["cycles"] if a["setting"]["coverage"] == 0.9]
    own = np.array([s["records"][-1]["carryover"] for s in summaries])
    control = np.array([s["controls"]["gaussian"]["carryover"] for s in summaries])
    assert found["carryover"]["mean"] == pytest.approx(own.mean())
    reach = 4.302653 * own.std(ddof=1) / math.sqrt(3) / (own.mean() * (1 - own.mean()))
    centre = math.log(own.mean() / (1 - own.mean()))
    ends = [1 / (1 + math.exp(-end)) for end in (centre - reach, centre + reach)]
    assert [found["carryover"]["low"], found["carryover"]["high"]] == pytest.approx(ends, rel=1e-5)
    assert found["carryover"]["values"] == pytest.approx(own.tolist())
    carried = [s["records"][-1]["carried"] for s in summaries]
    assert found["carried"] == [sum(carried), sum(s["records"][-1]["n_core_in"] for s in summaries)]
    assert found["controls"]["gaussian"]["mean"] == pytest.approx(control.mean())
    paired = 4.302653 * (own - control).std(ddof=1) / math.sqrt(3)
    margin = found["margins"]["gaussian"]
    assert margin["high"] - margin["mean"] == pytest.approx(paired, rel=1e-5)
    assert margin["mean"] - margin["low"] == pytest.approx(paired, rel=1e-5)
    sizes = np.array([s["core_sizes"] for s in summaries])
    assert [size["mean"] for size in found["core_sizes"]] == pytest.approx(sizes.mean(axis=0).tolist())
    by_cycle = {t.title: t for t in published[1].tables}["By cycle"]
    shown = next(dict(zip(by_cycle.names, row, strict=True)) for row in by_cycle.rows if "0.9" in row[:3])
    for cycle in (1, 2, 3):  # a carryover never stands without the noise of its score
        for name in ("carryover", "retest"):
            mean = np.mean([s["records"][cycle][name] for s in summaries])
            assert shown[f"{name} {cycle}"].startswith(f"{mean:.2f}"), (name, cycle)
    assert found["distilled_size"]["mean"] == pytest.approx(np.mean([s["distilled_size"] for s in summaries]))
    assert found["metrics"]["fvu"]["mean"] == pytest.approx(
        np.mean([s["records"][-1]["metrics"]["fvu"] for s in summaries])
    )
    # Cores that share directions but for noise; their SAEs, which chance is drawn from, are not there.
    alike = found["consistency"]
    assert alike["mean"] > 0.5 and alike["pairs"] == 3 and alike["chance"] is None and alike["shared"] == 0


def test_report_text_fits_a_terminal_and_links_its_figures(published: tuple[Path, Report, list[Path]]) -> None:
    sweep, report, files = published
    console = Console(width=80, record=True, file=io.StringIO())
    console.print(report.rich())
    text = console.export_text()
    assert "…" not in text and "[0." in text and "gaussian" in text
    assert max(len(line.rstrip()) for line in text.splitlines()) <= 80
    assert " ".join(text.split()).endswith(" ".join(report.finding().split()))
    markdown = (sweep / "report.md").read_text()
    for path in files:
        assert path.is_file() and (path.suffix != ".png" or f"(figures/{path.name})" in markdown)
    assert " ".join(f"{size:.0f}" for size in [s.mean for s in report.cycles[0].core_sizes]) in markdown


def test_one_seed_shows_no_interval_and_two_show_themselves(tmp_path: Path) -> None:
    write_trial(tmp_path, 4, 0.9, 0)
    report = make_report(tmp_path)
    tables = [line for line in report.markdown([], tmp_path).splitlines() if line.startswith("|")]
    assert tables and not re.search(r"\[\d|\(\d", "".join(tables))
    write_trial(tmp_path, 4, 0.9, 1)
    table = next(t for t in make_report(tmp_path).tables if t.title == "Cores")
    values = [make_summary(4, 0.9, seed)["records"][-1]["carryover"] for seed in range(2)]
    mean, first, second = (f"{v:.2f}" for v in (sum(values) / 2, *values))
    assert table.rows[0][table.names.index("carryover")] == f"{mean} ({first}, {second})"


def test_figures_are_drawn_for_what_there_is(published: tuple[Path, Report, list[Path]], tmp_path: Path) -> None:
    _, _, files = published
    names = {p.stem for p in files if p.suffix == ".png"}
    assert names == {"selected_sets", "lineage", "survival", "carryover", "coverage", "cost"}
    for seed in range(2):
        write_transfer(tmp_path / "t", 20, "distilled", "sparse", seed)
        write_transfer(tmp_path / "t", 20, "baseline", "dense", seed)
        write_transfer(tmp_path / "t", 20, "baseline", "dense", seed, budget=9)
    _, transfer = publish(tmp_path / "t")
    assert {p.stem for p in transfer if p.suffix == ".png"} == {"transfer", "cost"}
    numbers = (tmp_path / "t" / "figures" / "transfer.csv").read_text().splitlines()[1:]
    assert [line.split(",")[1:4] for line in numbers[::2]] == [
        *(["baseline", "dense", "1"], ["baseline", "dense", "9"], ["distilled", "sparse", "1"])
    ]
    for path in (*files, *transfer):
        if path.suffix == ".png":
            with Image.open(path) as image:
                grey = np.asarray(image.convert("L"))
            assert min(grey.shape) > 200 and 0.005 < (grey < 200).mean() < 0.6, path.name


def test_curves_of_the_last_cycle_start_at_its_beginning(sqlite: str, tmp_path: Path) -> None:
    """What the callback logs is what the figure reads, by way of the real journal."""
    folder = tmp_path / "demo-1"
    tracker = SweepTracker(sqlite, "demo", folder, "demo-1")
    tracker.start()
    records = TrialRecords(tracker, [], BATCH, "cycles")
    for seed in range(2):
        name, params = write_trial(folder, 4, 0.9, seed), make_summary(4, 0.9, seed)["params"]
        for cycle in range(CYCLES + 1):
            records.report(name, params, TrialReport(windows=make_windows(cycle, "distilled")))
        records.report(name, params, TrialReport(windows=make_windows(CYCLES, "gaussian")))
    _, files = publish(folder)
    for path in files:
        tracker.artifact(path)
    assert tracker.close() == 0
    (bands,) = final_cycle_bands(load_results(folder), folder / "journal.jsonl", "l0_core").values()
    assert set(bands) == {"distilled", "gaussian"}
    assert bands["gaussian"].tokens == [STEPS * BATCH * n // 10 for n in range(1, 11)]
    assert bands["gaussian"].values[-1].mean == pytest.approx(4.0) and bands["distilled"].values[-1].n == 2
    assert "core_l0" in {p.stem for p in files}
    parent = runs(sqlite, "demo")[0][0].info.run_id
    attached = {f.path for folder in ("", "figures") for f in MlflowClient(sqlite).list_artifacts(parent, folder)}
    assert {p.relative_to(folder).as_posix() for p in files} <= attached


def test_a_collapse_is_reported_by_name(tmp_path: Path) -> None:
    summary = make_summary(4, 0.9, 0, cycles=1)
    record = summary["records"][0] | {"collapsed": "all_scores_zero", "n_core": 0, "troubles": {"spike": 32}}
    summary |= {"records": [record], "controls": {}, "core_sizes": [0], "distilled_size": 0, "survival": {}}
    summary |= {"collapsed_at": 0, "collapse": "all_scores_zero"}
    (tmp_path / "trials" / "t").mkdir(parents=True)
    (tmp_path / "trials" / "t" / "summary.json").write_text(json.dumps(summary))
    report = make_report(tmp_path)
    text = report.markdown([], tmp_path)
    assert "k4-tau0.9-seed0 collapsed: all_scores_zero in cycle 0" in text
    assert "k4-tau0.9-seed0, cycle 0, distilled: spike at step 32" in text
    final = cycle_numbers(report.results[0].last)
    assert final["collapsed"] == 1 and "carryover" not in final and final["core_size"] == 0


def test_a_collapsed_control_is_in_no_number_and_cells_of_fewer_seeds_say_it(tmp_path: Path) -> None:
    """A control of 0.6 in two seeds and one that collapsed is 0.6, n = 2; not 0.4."""
    known = []
    for seed in range(3):
        summary = make_summary(4, 0.9, seed)
        control = summary["controls"]["gaussian"] | {"carryover": 0.6 + 0.02 * seed}
        if seed == 2:
            control |= {"carryover": 0.0, "collapsed": "not_finite"}
        else:
            known.append(summary["records"][-1]["carryover"] - control["carryover"])
        summary["controls"] = {"gaussian": control}
        folder = tmp_path / "trials" / summary["trial_id"]
        folder.mkdir(parents=True)
        (folder / "summary.json").write_text(json.dumps(summary))
    report = make_report(tmp_path)
    (one,) = report.cycles
    assert one.controls["gaussian"].values == pytest.approx((0.6, 0.62))
    assert one.margins["gaussian"].values == pytest.approx(known)
    cells = {name: cell for table in report.tables[:3] for name, cell in zip(table.names, table.rows[0], strict=True)}
    assert cells["n"] == "3" and cells["gaussian control"] == "0.61 (0.60, 0.62), n = 2"
    assert cells["carryover over gaussian"].endswith("), n = 2")
    assert any("control gaussian collapsed in cycle 3: not_finite" in line for line in report.health)


@pytest.mark.parametrize("text", ["", "{", '{"trial_id": "t"}', '{"trial_id": "t", "params": {"k": 1}, "records": []}'])
def test_a_broken_summary_is_one_line(tmp_path: Path, text: str) -> None:
    (tmp_path / "trials" / "t").mkdir(parents=True)
    (tmp_path / "trials" / "t" / "summary.json").write_text(text)
    with pytest.raises(DataError, match=r"summary\.json") as caught:
        make_report(tmp_path)
    assert "\n" not in str(caught.value)


def test_a_folder_without_finished_trials_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no finished trial"):
        make_report(tmp_path)
