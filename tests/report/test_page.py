"""The HTML page: whole in one file, in a real browser; of a sweep that runs; of several sweeps."""

import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest

from dmsae_ray.config.experiment import load_experiment
from dmsae_ray.report.cycle_figures import selected_sets
from dmsae_ray.report.figures import MAKERS
from dmsae_ray.report.page import Section
from dmsae_ray.report.picture import Picture
from dmsae_ray.report.publishing import compare, publish
from dmsae_ray.report.report import make_report
from dmsae_ray.results.folders import folders_of
from dmsae_ray.tracking.journal import Journal, JournalEntry
from dmsae_ray.tracking.names import cycle_numbers
from tests.browser import browser_tab
from tests.report.summaries import make_history, write_trial
from tests.small_sweep import write_config


class Ids(HTMLParser):
    """The ids of a page."""

    def __init__(self) -> None:
        super().__init__()
        self.ids: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.ids += [value for name, value in attrs if name == "id" and value]


def ids_of(page: str) -> list[str]:
    parser = Ids()
    parser.feed(page)
    return parser.ids


def test_the_page_is_whole_in_a_browser_and_names_are_escaped(tmp_path: Path) -> None:
    """A folder's name that would be a script, and a section that another part of the package adds."""
    folder = tmp_path / "<script>alert(1)<"
    for seed in range(3):
        write_trial(folder, 4, 0.9, seed)
    report, files = publish(folder, sections=lambda: [Section("more", "More", "<p>more</p>")])
    page = folder / "report.html"
    assert (
        page in files
        and "<script>alert" not in page.read_text()
        and "<script>" not in (folder / "report.md").read_text()
    )
    moved = tmp_path / "alone" / "page.html"
    moved.parent.mkdir()
    page.rename(moved)
    with browser_tab() as tab:
        tab.page.goto(moved.as_uri())
        tab.page.wait_for_load_state("load")
        asked = [address for address in tab.requests if not address.startswith("data:")]
        assert (tab.errors, asked) == ([], [moved.as_uri()])
        assert tab.page.title() == "<script>alert(1)<"
        assert report.finding() in tab.page.inner_text("body")
        assert tab.page.inner_text("#more p") == "more"
        sizes = tab.page.eval_on_selector_all("figure img", "all => all.map(i => [i.naturalWidth, i.naturalHeight])")
        captions = tab.page.eval_on_selector_all("figcaption", "all => all.map(c => c.innerText.length)")
        assert len(sizes) == len(captions) >= 5 and min(captions) > 100
        assert all(width > 100 and height > 100 for width, height in sizes)
        numbers = tab.page.eval_on_selector_all("a[download]", "all => all.map(a => atob(a.href.split(',')[1]))")
        assert numbers[0] == (folder / "figures" / "carryover.csv").read_text()
        width = tab.page.evaluate("[document.documentElement.scrollWidth, document.documentElement.clientWidth]")
        assert width[0] == width[1], "nothing is wider than the page"
    ids = ids_of(moved.read_text())
    assert len(ids) == len(set(ids))


def test_two_sweeps_are_compared_in_one_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # The figures of a sweep have tests of their own, and take their time.
    monkeypatch.setattr("dmsae_ray.report.figures.MAKERS", ())
    for name, k in (("one-11111111", 4), ("two-22222222", 8)):
        for seed in range(2):
            write_trial(tmp_path / name, k, 0.9, seed)
            write_trial(tmp_path / name, 6, 0.9, seed)
        (tmp_path / name).joinpath("config.yaml").write_text(
            load_experiment(write_config(tmp_path), [f"recipe.lr=0.00{k}"]).to_yaml()
        )
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    reports, files = compare([tmp_path / "one-11111111", tmp_path / "two-22222222"], tmp_path / "out" / "both.html")
    assert all(path.stat().st_mtime_ns == changed for path, changed in before.items() if path.is_file())
    page = (tmp_path / "out" / "both.html").read_text()
    assert files[0] == tmp_path / "out" / "both.html" and all(path.is_file() for path in files)
    for report in reports:
        assert report.finding() in page
    assert re.search(r"recipe\.lr</td><td>0\.004</td><td>0\.008", page) and "recipe.batch_size</td><td>" in page
    compared = (tmp_path / "out" / "both-figures" / "compared.csv").read_text().splitlines()
    assert sum(line.startswith("k=6 τ=0.9,") for line in compared) == 10 and len(compared) == 1 + 20
    ids = ids_of(page)
    assert len(ids) == len(set(ids)) and "sweep-1-cores" in ids and "sweep-2-cores" in ids


def test_a_sweep_that_runs_has_a_report_from_its_first_cycle_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the journal has is what is shown, marked as unfinished; what is finished is not mixed with it."""
    monkeypatch.chdir(tmp_path)
    experiment = load_experiment(
        write_config(tmp_path), ["sweep.k=[4]", "sweep.coverage=[0.5,0.9]", "sweep.seeds=[0,1]", "distill.cycles=3"]
    )
    folder = folders_of(experiment).sweep
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(experiment.to_yaml())

    def log(trial: str, cycles: range) -> None:
        k, tau, seed = (float(v) for v in re.findall(r"[\d.]+", trial))
        with Journal(folder / "journal.jsonl") as journal:
            reports = make_history(int(k), tau, int(seed)).reports
            for n in cycles:
                numbers = cycle_numbers(reports[n], reports[:n])
                journal.append([JournalEntry(trial, "metrics", "cycle", numbers, n)], 0)
                journal.append([JournalEntry(f"{trial}/cycle {n}", "metrics", "train", {"train/loss": 1.0}, 512)], 0)
            journal.append([JournalEntry(f"{trial}/gaussian", "metrics", "cycle", numbers | {"core_size": 99.0}, 3)], 0)

    log("k4-tau0.5-seed0", range(1))
    assert make_report(folder).finding().startswith("So far only cycle 0 is finished (1 trial)")
    log("k4-tau0.5-seed0", range(1, 3))
    log("k4-tau0.5-seed1", range(2))
    write_trial(folder, 4, 0.9, 0)
    log("k4-tau0.9-seed1", range(2))
    report = make_report(folder)
    runs, done = report.cycles
    own = [make_history(4, 0.5, seed).reports for seed in (0, 1)]
    assert (runs.finished, runs.cycle, runs.seeds) == (False, 1, (0, 1))
    assert runs.carryover.values == pytest.approx((own[0][1].carryover, own[1][1].carryover), rel=1e-3)
    assert runs.carried == tuple(sum(getattr(o[1], name) for o in own) for name in ("carried", "n_core_in"))
    assert runs.seconds.values == pytest.approx([(o[0].seconds + o[1].seconds) / 2 for o in own])
    assert [size.mean for size in runs.core_sizes] == [sum(o[c].n_core for o in own) / 2 for c in range(2)]
    for name in ("l0", "dead_fraction", "core_frequency_median"):
        assert runs.metrics[name].values == pytest.approx([o[1].metrics[name] for o in own], rel=1e-3)
    assert (done.finished, done.seeds, done.running) == (True, (0,), (1,))
    assert report.progress == "1 of 4 trials are finished, 3 more with finished cycles"
    cores = report.tables[0]
    remarks = [row[cores.names.index("not in n, or so far")] for row in cores.rows]
    assert remarks == ["not done: cycle 1 of 3", "1 not done"]
    table = next(t for t in report.tables if t.title.startswith("Unfinished trials"))
    assert [row[:2] for row in table.rows] == [
        ("k4-tau0.5-seed0", "3 of 4"),
        ("k4-tau0.5-seed1", "2 of 4"),
        ("k4-tau0.9-seed1", "2 of 4"),
    ]
    assert report.finding().startswith("With k = 4, τ = 0.9, ")
    assert report.finding().endswith(" 1 more setting has no finished trial yet.")
    only = replace(report, cycles=report.cycles[:1]).finding()
    assert only.startswith("So far (no trial is finished; cycle 1 of 3): With k = 4, τ = 0.5, ")
    pictures = {make.__name__: make(report, folder) for make in MAKERS}
    assert isinstance(pictures["selected_sets"], Picture) and isinstance(pictures["carryover"], Picture)
    assert all(isinstance(made, Picture | str | None) for made in pictures.values())
    chosen = selected_sets(replace(report, cycles=report.cycles[:1]), folder)
    assert isinstance(chosen, Picture) and "(unfinished)" in chosen.draw().axes[0].get_title()
