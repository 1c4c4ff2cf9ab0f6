"""Write the report and the figures of a sweep into its folder."""

from pathlib import Path

from dmsae_ray.report.figures import write_figures
from dmsae_ray.report.report import Report, make_report, write_report


def publish(sweep_dir: str | Path) -> tuple[Report, list[Path]]:
    """Write report.md, report.json and figures/*.png.

    Returns:
        The report, and the files written.

    Raises:
        DataError: No trial is finished, or a summary cannot be read.
    """
    report = make_report(sweep_dir)
    figures = write_figures(report, sweep_dir)
    return report, [*write_report(report, sweep_dir, figures), *figures]
