"""The end of a sweep: figures and report into its folder, and onto its parent run."""

from pathlib import Path

from dmsae_ray.report.figures import write_figures
from dmsae_ray.report.report import Report, make_report, write_report
from dmsae_ray.tracking import SweepTracker


def publish(sweep_dir: str | Path, tracker: SweepTracker | None = None) -> tuple[Report, list[Path]]:
    """Write report.md, report.json and figures/*.png, and attach them to the parent run of a started `tracker`.

    Returns:
        The report, and the files written.

    Raises:
        DataError: no trial is finished, or a summary cannot be read.
    """
    report = make_report(sweep_dir)
    figures = write_figures(report, sweep_dir)
    files = [*write_report(report, sweep_dir, figures), *figures]
    if tracker is not None:
        for path in files:
            tracker.artifact(path)
    return report, files
