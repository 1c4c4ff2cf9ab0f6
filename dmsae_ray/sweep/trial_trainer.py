"""Ray Train's trainer of a trial, with one process less."""

from typing import Any

from ray.train.torch import TorchTrainer
from ray.train.v2._internal.callbacks.placement_group_callback import PlacementGroupCleanerCallback


class TrialTrainer(TorchTrainer):
    """A TorchTrainer that starts no actor to remove the placement group of a controller that was killed.

    That actor is a process more for each trial, whose start the workers wait for, and it needs Ray's dashboard.
    `OrphanedPlaces` does the same from the sweep's own process; where that ends, Ray removes what its job made.
    """

    def _create_default_callbacks(self) -> list[Any]:
        found: list[Any] = super()._create_default_callbacks()  # type: ignore[misc]
        return [callback for callback in found if not isinstance(callback, PlacementGroupCleanerCallback)]
