"""The core that a trial selected in a cycle: its lineage, and where its latents are in the SAEs of the cycles."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from dmsae_ray.config import load_experiment
from dmsae_ray.distill import Lineage, LineageId
from dmsae_ray.errors import ConfigError, DataError
from dmsae_ray.files import Folder
from dmsae_ray.results import TrialResult


@dataclass(frozen=True, eq=False)
class TrialCore:
    """The core that one trial selected in one cycle.

    Attributes:
        result: the trial.
        cycle: the cycle.
        lineages: those of C_0..C_L.
        ids: the core's lineage, by descending score.
        distilled: ids in C*.
        keys: key of the SAE of each cycle, None where there is none.
    """

    result: TrialResult
    cycle: int
    lineages: tuple[Lineage, ...]
    ids: Lineage
    distilled: frozenset[LineageId]
    keys: dict[int, str]

    @property
    def name(self) -> str:
        """Name of the trial."""
        return self.result.trial_id

    def row(self, cycle: int, latent: LineageId) -> int | None:
        """Return the row of a latent in the SAE of a cycle; None if it is not in its pool under this name."""
        before = self.lineages[cycle - 1] if cycle else ()
        if latent in before:
            return before.index(latent)
        return latent.latent if latent.cycle == cycle else None

    def place(self, cycle: int, latent: LineageId) -> int:
        """Return the row of a latent that must be in the SAE of a cycle.

        Raises:
            DataError: it is not.
        """
        row = self.row(cycle, latent)
        if row is None:
            raise DataError(f"lineage {latent} is in no SAE of cycle {cycle}")
        return row


def trial_cores(results: Sequence[TrialResult], cycle: int | None, lacks: list[str]) -> list[TrialCore]:
    """Return the cores of trials in a cycle (None: the last); say which have none."""
    found = []
    for result in results:
        lineages, distilled = _lineages(result)
        at = len(lineages) - 1 if cycle is None else cycle
        if not 0 <= at < len(lineages):
            lacks.append(f"{result.trial_id} has the cycles 0..{len(lineages) - 1}, not cycle {cycle}")
        elif not lineages[at]:
            lacks.append(f"{result.trial_id} has no core in cycle {at}: {result.collapse or 'none was selected'}")
        else:
            keys = {report.cycle: report.key for report in result.reports}
            found.append(TrialCore(result, at, lineages, lineages[at], distilled, keys))
    if not found and cycle is not None:
        raise ConfigError(f"--cycle is {cycle}; {'; '.join(lacks)}")
    return found


def _lineages(result: TrialResult) -> tuple[tuple[Lineage, ...], frozenset[LineageId]]:
    """Return the lineages of C_0..C_L of a trial, and the ids in C*."""
    assert result.folder is not None, "it was loaded from a folder"
    try:
        summary = json.loads((result.folder / "summary.json").read_text(encoding="utf-8"))
        lineages = tuple(tuple(LineageId(*map(int, i)) for i in core) for core in summary["lineage"])
        return lineages, frozenset(LineageId(*map(int, i)) for i in summary["distilled_lineage"])
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(f"'{result.folder / 'summary.json'}' holds no lineage ({type(error).__name__})") from None


def output_of_sweep(sweep_dir: Path) -> Folder:
    """Return the output with the cycles of a sweep: above its folder, or in the bucket that its config names."""
    above = sweep_dir.expanduser().absolute().parent.parent
    config = sweep_dir.expanduser() / "config.yaml"
    if not (above / "cycles").is_dir() and config.is_file():
        return Folder(load_experiment(config).output)
    return Folder(str(above))
