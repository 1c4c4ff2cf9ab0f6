"""The figures of a sweep: each that the results allow, and a sentence for each that they do not."""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from dmsae_ray.errors import one_line
from dmsae_ray.report.axis_effects import axis_effects
from dmsae_ray.report.core_figures import core_l0, transfer
from dmsae_ray.report.cycle_figures import lineage, score_coverage, selected_sets, survival
from dmsae_ray.report.picture import Drawn, Picture, Which
from dmsae_ray.report.report import Report
from dmsae_ray.report.setting_figures import carryover, cost, coverage, heat_maps

log = logging.getLogger(__name__)

Make = Callable[[Report, Path], Picture | str | None]

MAKERS: tuple[Make, ...] = (
    carryover,
    axis_effects,
    heat_maps,
    selected_sets,
    lineage,
    survival,
    core_l0,
    coverage,
    score_coverage,
    transfer,
    cost,
)
"""In the order in which they stand in the report."""


@dataclass(frozen=True)
class Figures:
    """The figures of a report.

    Attributes:
        drawn: Those that are there.
        left_out: A sentence for each that is missing though its sweep could have it.
    """

    drawn: tuple[Drawn, ...]
    left_out: tuple[str, ...]

    @property
    def files(self) -> list[Path]:
        """All files of the figures."""
        return [path for drawn in self.drawn for path in drawn.files]


def write_figures(
    report: Report, sweep_dir: str | Path, *, folder: Path | None = None, which: Which = "all"
) -> Figures:
    """Write every figure that the results allow.

    A figure that cannot be drawn is left out, and a warning says so.

    Args:
        report: The report.
        sweep_dir: The sweep folder.
        folder: Where to write; `<sweep>/figures` by default.
        which: Which figures are drawn; with 'none' those of an earlier time are taken.
    """
    sweep_dir = Path(sweep_dir).absolute()
    folder = sweep_dir / "figures" if folder is None else folder
    drawn: list[Drawn] = []
    left_out: list[str] = []
    for make in MAKERS:
        try:
            picture = make(report, sweep_dir)
            if isinstance(picture, Picture):
                found = picture.write(folder, which)
                drawn += [found] if found is not None else []
            elif picture is not None:
                left_out.append(picture)
        except Exception as error:  # whatever a plotting library raises: the tables and the other figures stand
            log.warning("figure %s cannot be drawn: %s", make.__name__, one_line(error))
            left_out.append(f"The figure '{make.__name__}' could not be drawn: {one_line(error)}.")
    return Figures(tuple(drawn), tuple(left_out))
