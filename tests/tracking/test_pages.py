"""MLflow's pages of a sweep, served by `dmsae ui` and opened in a real browser."""

import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from mlflow.entities import Run

from dmsae_ray.cli.live_report import attach
from dmsae_ray.config.experiment import parse_experiment
from dmsae_ray.distill.reports import CycleReport
from dmsae_ray.report.publishing import publish
from dmsae_ray.results import experiment_of
from dmsae_ray.results.folders import create_folders
from dmsae_ray.results.reports import TrialReport
from dmsae_ray.tracking.sweep_records import describe_sweep, save_views
from dmsae_ray.tracking.tracker import SweepTracker
from dmsae_ray.tracking.trial_records import TrialRecords, record_finished
from tests.browser import Tab, browser_tab
from tests.mlflow_stores import runs, views_of
from tests.report.summaries import BATCH, make_summary, make_windows, write_trial
from tests.small_sweep import SMALL

KS, SEEDS = (4, 20), (0, 1)


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a sweep of four trials with their controls, in MLflow."""
    output = tmp_path_factory.mktemp("a sweep's output #1")
    experiment = parse_experiment({**SMALL, "output": str(output), "sweep": {"k": list(KS), "seeds": list(SEEDS)}})
    folder = create_folders(experiment).sweep
    tracker = SweepTracker.of(experiment, folder)
    tracker.start()
    describe_sweep(tracker, experiment, {"0" * 24: experiment.corpus})
    save_views(tracker, experiment)
    records = TrialRecords(tracker, [], BATCH, str(output / "cycles"))
    for k in KS:
        for seed in SEEDS:
            name = write_trial(folder, k, 0.9, seed)
            summary = make_summary(k, 0.9, seed)
            for cycle in summary["records"]:
                windows = make_windows(cycle["cycle"], "distilled")
                report = TrialReport(windows, (CycleReport(**cycle),))
                records.report(name, summary["params"], report)
    record_finished(records, folder)
    attach(tracker, *publish(folder))
    assert tracker.close() == 0
    return folder


@pytest.fixture(scope="module")
def views(recorded: Path) -> Iterator[dict[str, str]]:
    """The views that `dmsae ui` names, with their addresses, while it serves them."""
    with views_of(recorded) as found:
        yield found


@pytest.fixture(scope="module")
def tab() -> Iterator[Tab]:
    with browser_tab(1900, 1300) as tab:
        tab.page.set_default_timeout(90_000)
        yield tab


@pytest.mark.slow
def test_the_first_page_shows_what_comes_back(tab: Tab, views: dict[str, str], recorded: Path) -> None:
    tab.page.goto(views["Stability"])
    tab.page.get_by_text("1 Which features come back").first.wait_for()
    for section in ("2 Reconstruction, at measured L0", "3 Health of the trainings"):
        assert tab.page.get_by_text(section).count() == 1
    tab.page.get_by_text("l0 vs. carryover").first.wait_for()
    assert tab.page.get_by_text("4 matching runs").count() == 1
    assert tab.page.get_by_text(f"Stability - {recorded.name}").count() >= 1
    assert tab.page.get_by_text("train/lr", exact=True).count() == 0, "charts that nobody asked for"
    tab.page.goto(views["Stability"].replace("compareRunsMode=CHART", "compareRunsMode=TABLE"))
    tab.page.get_by_role("columnheader", name="distilled_size").first.wait_for()
    shown = ("k", "coverage", "seed", "carryover", "margin_chance", "margin_gaussian", "core_size", "distilled_size")
    heads = [text for text in seen(tab, "columnheader", "x") if text in shown]
    assert tuple(dict.fromkeys(heads)) == shown
    names = [text.split()[0] for text in seen(tab, "link", "y") if re.match(r"k\d+-tau", text)]
    assert [name.partition("-")[0] for name in dict.fromkeys(names)] == ["k4", "k4", "k20", "k20"], "as numbers"


def seen(tab: Tab, role: str, along: str) -> list[str]:
    """The texts of all elements with a role, in the order in which a person sees them."""
    places = [(element.bounding_box(), element.inner_text().strip()) for element in tab.page.get_by_role(role).all()]
    return [text for box, text in sorted(((b, t) for b, t in places if b and t), key=lambda pair: pair[0][along])]


@pytest.mark.slow
def test_seeds_are_averaged_by_setting_and_arm(tab: Tab, views: dict[str, str]) -> None:
    tab.page.goto(views["Seeds averaged"])
    tab.page.get_by_text("1 Which features come back").first.wait_for()
    groups = tab.page.get_by_text(re.compile(r"^Group: k: "))
    groups.first.wait_for()
    said = {text for text in groups.all_inner_texts()}
    assert said == {f"Group: k: {k}, coverage: 0.9, arm: {arm}" for k in KS for arm in ("distilled", "gaussian")}


@pytest.mark.slow
def test_trainings_lie_over_each_other(tab: Tab, views: dict[str, str]) -> None:
    tab.page.goto(views["Training curves"])
    tab.page.get_by_text("1 Training, by tokens of the training").first.wait_for()
    tab.page.get_by_text("train/loss", exact=True).first.wait_for()
    assert tab.page.get_by_text(f"{len(KS) * len(SEEDS) * 4} matching runs").count() == 1


@pytest.mark.slow
def test_the_report_is_shown_among_the_artifacts(tab: Tab, views: dict[str, str], recorded: Path) -> None:
    server, _, place = views["Stability"].partition("/#/")
    parents, _ = runs(f"sqlite:///{recorded.parents[1] / 'mlflow.db'}", "small")
    run = f"{server}/#/experiments/{place.split('/')[1]}/runs/{parents[0].info.run_id}"
    tab.errors.clear()
    tab.page.goto(f"{run}/artifacts/report.html")
    report = tab.page.frame_locator("iframe")
    report.get_by_role("heading", name=recorded.name).wait_for()
    assert report.get_by_text("What came back").count() >= 1
    pictures = report.locator("img, svg").all()
    assert pictures and all(box["width"] > 100 for picture in pictures if (box := picture.bounding_box()))
    assert not [error for error in tab.errors if "report" in error or "data:" in error], tab.errors


def test_an_output_folder_that_moved_takes_its_files_along(recorded: Path, tmp_path: Path) -> None:
    before, copy = recorded.parent.parent, tmp_path / "moved ü"
    shutil.copytree(before, copy)
    folder = copy / "sweeps" / recorded.name
    (folder / "report.html").write_text("<p>")
    kept = {path: path.stat().st_mtime_ns for path in before.rglob("*")}
    # In the process that wrote the first: MLflow's client remembers by a run's id where its files are.
    tracker = SweepTracker.of(experiment_of(folder), folder)
    tracker.start()
    tracker.artifact(folder / "report.html")
    assert tracker.close() == 0
    parents, below = runs(f"sqlite:///{copy / 'mlflow.db'}", "small")
    assert all(run.info.artifact_uri.startswith(copy.as_uri()) for run in (*parents, *below))

    def files(run: Run) -> set[str]:
        return {path.name for path in (copy / "mlartifacts" / run.info.run_id / "artifacts").iterdir()}

    assert files(parents[0]) == {"config.yaml", "report.html", "report.md", "report.json", "figures"}
    assert (copy / "mlartifacts" / parents[0].info.run_id / "artifacts" / "report.html").read_text() == "<p>"
    trial = next(run for run in below if run.data.tags["dmsae.kind"] == "trial")
    assert files(trial) == {"summary.json", "core.safetensors"}
    assert {path: path.stat().st_mtime_ns for path in before.rglob("*")} == kept, "the old place is left alone"
