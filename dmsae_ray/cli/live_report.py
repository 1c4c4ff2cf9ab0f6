"""The report of a sweep while it runs and at its end: written into its folder, and attached to its run in MLflow."""

import logging
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from ray.tune import Callback

from dmsae_ray.errors import DataError, one_line
from dmsae_ray.results import TrialReport
from dmsae_ray.tracking import SweepTracker

if TYPE_CHECKING:
    from dmsae_ray.report import Report, Section

log = logging.getLogger(__name__)

TEXT_SECONDS, FIGURE_SECONDS = 30.0, 300.0
"""Least times between two reports, without and with new figures."""
SHARE = 0.02
"""Part of the time that drawing may take: it shares the machine with all drivers of trials."""


class LiveReport(Callback):
    """Context in which the report is made again after finished cycles, from a thread of its own.

    Args:
        tracker: The sweep's tracker, which is started.
    """

    def __init__(self, tracker: SweepTracker) -> None:
        self._tracker = tracker
        self._news = threading.Event()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="dmsae-report", daemon=True)

    def __enter__(self) -> "LiveReport":
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._news.set()
        self._thread.join()

    def on_trial_result(self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **_: Any) -> None:
        """Take note that there is something new."""
        if TrialReport.from_metrics(result).cycles:
            self._news.set()

    def _run(self) -> None:
        from dmsae_ray.report import load_plotting, publish  # they take a second, in which trials train

        drawn, pause = time.monotonic(), FIGURE_SECONDS
        said = ""
        while not self._stop.is_set():
            self._news.wait()
            load_plotting()
            if self._stop.wait(TEXT_SECONDS):
                return
            self._news.clear()
            began = time.monotonic()
            draw = began - drawn >= pause
            try:
                report, files = publish(self._tracker.sweep_dir, draw="changed" if draw else "none")
            except DataError:
                continue  # the journal does not have it yet
            except Exception as error:  # whatever a plotting library raises, or a full disk
                if one_line(error) != said:
                    said = one_line(error)
                    log.warning("the report is not remade now (%s)", said)
                continue
            attach(self._tracker, report, [path for path in files if draw or path.suffix in (".html", ".json")])
            if draw:
                drawn = time.monotonic()
                pause = max(FIGURE_SECONDS, (drawn - began) / SHARE)


def publish_and_attach(tracker: SweepTracker, sections: "Callable[[], Sequence[Section]]" = tuple) -> "Report | None":
    """Write the report of a sweep and attach it to its run; return None where no cycle is finished yet.

    Args:
        tracker: The sweep's tracker.
        sections: Called when the figures are drawn: more parts of the page.
    """
    from dmsae_ray.report import publish

    try:
        report, files = publish(tracker.sweep_dir, sections=sections)
    except DataError as error:
        log.debug("no report: %s", error)
        return None
    attach(tracker, report, files)
    return report


def attach(tracker: SweepTracker, report: "Report", files: Sequence[Path]) -> None:
    """Attach a report to the sweep's run in MLflow: its files, its finding as the note, its numbers by setting."""
    for path in files:
        tracker.artifact(path)
    pictures = [path.relative_to(tracker.sweep_dir).as_posix() for path in files if path.name == "carryover.png"]
    tracker.note(f"{report.finding()}\n\n{report.progress}. The whole report is the artifact `report.html`.", pictures)
    cycles = sum(len(result.reports) for result in (*report.results, *report.running))
    tracker.metrics(None, "settings", report.numbers(), cycles)
