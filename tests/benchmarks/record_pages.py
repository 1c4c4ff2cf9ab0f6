"""Pictures of MLflow's pages, of the report and of the live table, for README.md.

    python tests/benchmarks/record_pages.py SWEEP_FOLDER [--terminal FILE] [--to FOLDER]      # sweeps/demo/*.png

The pages are those that `dmsae ui SWEEP_FOLDER` serves, in Chromium. FILE holds what `dmsae sweep` wrote to a terminal
(as the program `script` keeps it); its last full table becomes a picture. It also says how long `dmsae ui` took.
"""

import argparse
import io
import re
import shutil
import sys
import time
from pathlib import Path

from rich.console import Console
from rich.text import Text

sys.path.insert(0, str(Path(__file__).parents[2]))
from tests.browser import Tab, browser_tab
from tests.mlflow_stores import runs, views_of

# MLflow's own assistant opens itself at the first visit; a person closes it once.
_NO_ASSISTANT = (
    "localStorage.setItem('mlflow.assistant.fab.autoOpenedOnFirstLoad_v1', 'true');"
    "localStorage.setItem('mlflow.assistant.panelOpen_v1', 'false');"
)

ROOT = Path(__file__).parents[2]
_MOVES = re.compile(r"\x1b\[[0-9;?]*[A-HJKSTfhlsu]")


def page(tab: Tab, address: str, wait_for: str, settle: float = 6.0) -> None:
    """Open an address, and wait until a text is there and charts are drawn."""
    tab.page.goto("about:blank")
    tab.page.goto(address)
    tab.page.get_by_text(wait_for).first.wait_for()
    time.sleep(settle)


def record_mlflow(tab: Tab, folder: Path, views: dict[str, str], to: Path) -> None:
    """Take the pictures of MLflow's pages of a sweep."""
    server, _, place = views["Stability"].partition("/#/")
    experiment = place.split("/")[1]
    parents, children = runs(f"sqlite:///{folder.parents[1] / 'mlflow.db'}", _experiment_name(folder))
    parent = next(run for run in parents if run.info.run_name == folder.name or folder.name in str(run.data.tags))
    trials = [run for run in children if run.data.tags.get("dmsae.kind") == "trial"]
    trials = [run for run in trials if run.data.tags.get("mlflow.parentRunId") == parent.info.run_id][:8]
    page(tab, views["Stability"], "1 Which features come back")
    tab.picture(to / "mlflow.png")
    page(tab, views["Stability"].replace("=CHART", "=TABLE"), "distilled_size")
    tab.picture(to / "mlflow_table.png")
    page(tab, views["Seeds averaged"], "1 Which features come back")
    tab.picture(to / "mlflow_seeds.png")
    page(tab, views["Training curves"], "1 Training, by tokens of the training")
    tab.picture(to / "mlflow_training.png")
    ids = ",".join(f"%22{run.info.run_id}%22" for run in trials)
    compared = f"runs=[{ids}]&experiments=[%22{experiment}%22]&workflowType=machine_learning"
    page(tab, f"{server}/#/compare-runs?{compared}", "Comparing 8 Runs")
    tab.picture(to / "mlflow_compare.png")
    run, mode = f"{server}/#/experiments/{experiment}/runs/", "?workflowType=machine_learning"
    page(tab, run + parent.info.run_id + mode, "Overview")
    tab.picture(to / "mlflow_parent.png")
    page(tab, run + trials[0].info.run_id + mode, "Overview")
    tab.picture(to / "mlflow_trial.png")
    page(tab, f"{run}{parent.info.run_id}/artifacts/report.html{mode}", "report.html", 8)
    tab.picture(to / "mlflow_report.png")


def _experiment_name(folder: Path) -> str:
    from dmsae_ray.results import experiment_of

    experiment = experiment_of(folder)
    return experiment.tracking.experiment or experiment.name


def record_report(tab: Tab, folder: Path, to: Path) -> None:
    """Take the pictures of the report, opened as a file, and of the page of one latent in it."""
    tab.page.goto((folder / "report.html").as_uri())
    tab.page.wait_for_load_state("load")
    time.sleep(2)
    tab.picture(to / "report.png")
    tab.page.click("text=distilled core only")
    tab.page.fill("#latents-filter", "k=8")
    tab.page.locator("#latents-app tbody tr").nth(2).locator("a").first.click()
    tab.page.locator("article h3").wait_for()
    tab.picture(to / "latent.png")


def record_terminal(path: Path, to: Path) -> None:
    """Draw the fullest table that a terminal showed."""
    frames = re.split(r"(?:\r?\x1b\[2K(?:\x1b\[1A)?)+", path.read_text(errors="replace"))
    tables = [frame for frame in frames if "tokens/s" in frame and "trainings" in frame]
    frame = max(tables, key=lambda text: (text.count("finished"), text.count("\u2501")))
    text = Text.from_ansi(_MOVES.sub("", frame).replace("\r", "").strip("\n"))
    console = Console(record=True, width=max(len(line) for line in text.plain.splitlines()), file=io.StringIO())
    console.print(text)
    svg = to / "live_table.svg"
    console.save_svg(str(svg), title="dmsae sweep")
    with browser_tab(1240, 700) as tab:
        tab.page.goto(svg.as_uri())
        width, height = (float(v) for v in tab.page.locator("svg").first.get_attribute("viewBox").split()[2:])
        tab.page.set_viewport_size({"width": 1240, "height": round(1240 * height / width)})
        tab.picture(to / "live_table.png")
    svg.unlink()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--terminal", type=Path)
    parser.add_argument("--to", type=Path, default=ROOT / "sweeps" / "demo")
    args = parser.parse_args()
    folder = args.folder.resolve()
    args.to.mkdir(parents=True, exist_ok=True)
    if args.terminal is not None:
        record_terminal(args.terminal, args.to)
    began = time.monotonic()
    for name in ("carryover.png", "selected_sets.png"):
        shutil.copy(folder / "figures" / name, args.to / name)
    with views_of(folder) as views, browser_tab(1600, 1000) as tab:
        print(f"dmsae ui answered after {time.monotonic() - began:.1f} s")
        tab.page.set_default_timeout(90_000)
        tab.page.add_init_script(_NO_ASSISTANT)
        began = time.monotonic()
        record_report(tab, folder, args.to)
        assert not tab.errors, tab.errors
        page(tab, views["Stability"], "1 Which features come back", 0)
        print(f"the first page stood after {time.monotonic() - began:.1f} s")
        record_mlflow(tab, folder, views, args.to)


if __name__ == "__main__":
    main()
