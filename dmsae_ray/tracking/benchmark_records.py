"""The MLflow runs of the benchmark with known features: one of its folder, below it one for each replica."""

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from dmsae_ray.tracking.destination import Destination
from dmsae_ray.tracking.tracker import SweepTracker

if TYPE_CHECKING:
    from dmsae_ray.groundtruth import Replica

EXPERIMENT = "groundtruth"
"""Name of the MLflow experiment."""
ARMS = ("distilled", "best of C_0", "most frequent", "random of the pool")
"""Sets of latents whose numbers are logged; the page has all."""


class BenchmarkRecords:
    """Context of a benchmark's records; they are in its folder before they are in MLflow, and none is logged twice.

    Entering it connects to the store. A benchmark that is left before `finish` is noted as killed.

    Args:
        destination: The MLflow store.
        folder: The folder, which also holds the journal.
    """

    def __init__(self, destination: Destination, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._tracker = SweepTracker(destination, EXPERIMENT, folder, folder.absolute().name)
        self._finished = False

    def __enter__(self) -> Self:
        """Connect to the store, and begin the run of the folder.

        Raises:
            ConfigError: The store does not answer in time, or refuses access, or another process uses this folder.
            DataError: The journal is corrupt.
        """
        self._tracker.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._tracker.close("FINISHED" if self._finished else "KILLED")

    def replica(self, name: str, found: "Replica", settings: Mapping[str, Any]) -> None:
        """Record a replica in a run of its own, whose name says all that its numbers depend on."""
        params = {
            what: value if isinstance(value, int | float | str) else str(value) for what, value in settings.items()
        }
        self._tracker.run(name, {**params, "regime": found.regime, "seed": found.seed})
        self._tracker.metrics(name, "recovered", numbers_of(found), 0)
        for variant, cores in found.cores.items():
            for core in cores:
                values = {f"by cycle/{what} {variant}": core[what] for what in ("purity", "importance", "frequency")}
                self._tracker.metrics(name, f"cores {variant}", values, round(core["cycle"]))
        for variant, why in found.collapsed.items():
            if why:
                self._tracker.tag(name, f"collapsed.{variant}", why)
        self._tracker.end(name)

    def finish(self, findings: Sequence[str], files: Iterable[Path]) -> None:
        """Record what the whole shows."""
        self._tracker.note("\n".join(f"- {line}" for line in findings))
        for file in files:
            self._tracker.artifact(file)
        self._finished = True


def numbers_of(found: "Replica") -> dict[str, float]:
    """Return what a replica is compared by: what sets of latents recover, how scores rank, and rediscovery.

    A number that does not exist, such as the rank correlation of a score that is constant, is left out.
    """
    numbers: dict[str, float] = {}
    for variant, arms in found.arms.items():
        numbers[f"size/{variant} distilled"] = float(found.sizes[variant][-1])
        for arm in ARMS:
            for what in ("importance", "purity"):
                if arm in arms:
                    numbers[f"{what}/{variant} {arm}"] = arms[arm][what]
    for score, ranks in found.scores.items():
        numbers[f"rank with importance/{score}"] = ranks["dictionary"]
    for arm, again in found.rediscovery.items():
        if arm.endswith(ARMS[:2]):
            numbers[f"rediscovery/{arm}"] = again["decoder_mean"]
    return {name: value for name, value in numbers.items() if math.isfinite(value)}
