"""Finished cycles in memory, for runs that are over before anybody would stop them."""

from typing import Any

from torch import Tensor

from dmsae_ray.distill.cycle_store import scores_file
from dmsae_ray.distill.trained_cycle import TrainedCycle


class MemoryCycleStore:
    """A `CycleStore` that lasts as long as the object: runs that share it share what they train."""

    def __init__(self) -> None:
        self._cycles: dict[str, TrainedCycle] = {}
        self._scores: dict[tuple[str, str], Tensor] = {}

    def load(self, key: str) -> TrainedCycle | None:
        """See `CycleStore`."""
        return self._cycles.get(key)

    def save(self, key: str, cycle: TrainedCycle) -> None:
        """See `CycleStore`."""
        self._cycles[key] = cycle

    def load_scores(self, key: str, scoring: dict[str, Any]) -> Tensor | None:
        """See `CycleStore`."""
        return self._scores.get((key, scores_file(scoring)))

    def save_scores(self, key: str, scoring: dict[str, Any], scores: Tensor) -> None:
        """See `CycleStore`."""
        self._scores[key, scores_file(scoring)] = scores
