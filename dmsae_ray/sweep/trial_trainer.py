"""Ray Train's trainer of a trial, with fewer processes: its controller runs in the trial's driver."""

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import Future
from queue import SimpleQueue
from typing import Any, TypeVar

import ray.train
from ray.train.torch import TorchTrainer
from ray.train.v2._internal.callbacks.datasets import DatasetsCallback
from ray.train.v2._internal.callbacks.placement_group_callback import PlacementGroupCleanerCallback
from ray.train.v2._internal.execution.callback import WorkerGroupCallback
from ray.train.v2._internal.execution.controller import TrainController

T = TypeVar("T")


class TrialTrainer(TorchTrainer):
    """A TorchTrainer whose controller runs in the calling process, and that starts two actors less.

    Each would be a process more for each trial, whose start the workers wait for: the controller, for which a driver of
    Tune only waits, and which that driver now is for one trial after the other; one that hands out Ray Data's
    datasets, of which a trial has none; and one that cleans up after a controller that was killed. `OrphanedPlaces`
    does that from the sweep's own process; where that ends, Ray removes what its job made.
    """

    def _create_default_callbacks(self) -> list[Any]:
        found: list[Any] = super()._create_default_callbacks()  # type: ignore[misc]
        kept = [each for each in found if not isinstance(each, DatasetsCallback | PlacementGroupCleanerCallback)]
        return [*kept, _NoDatasets()]

    def _initialize_and_run_controller(self, **given: Any) -> ray.train.Result:
        controller = TrainController(**given)
        asyncio.run(controller.run())  # type: ignore[no-untyped-call]
        result: ray.train.Result = controller.get_result()
        return result


class _NoDatasets(WorkerGroupCallback):
    def before_init_train_context(self, workers: list[Any]) -> dict[str, list[None]]:
        return {"dataset_shard_provider": [None] * len(workers)}


class Reports(ray.train.UserCallback):
    """What the workers of a run report, for the thread that waits for the run."""

    def __init__(self) -> None:
        self._queue: SimpleQueue[dict[str, Any] | None] = SimpleQueue()

    def __getstate__(self) -> dict[str, Any]:
        return {}  # each worker gets the run's configuration, with its callbacks, and calls none of them

    def after_report(
        self, run_context: Any, metrics: list[dict[str, Any]], checkpoint: ray.train.Checkpoint | None
    ) -> None:
        """Keep what the first worker reports."""
        self._queue.put(metrics[0])

    def forward(self, run: Callable[[], T], to: Callable[[dict[str, Any]], None]) -> T:
        """Call `run` in a thread of its own, and here `to` with each report as it comes.

        The controller never waits for `to`: a training would stand still while its reports are taken slowly.

        Returns:
            What `run` returns; its error is raised, after the last report.
        """
        end: Future[T] = Future()

        def work() -> None:
            try:
                end.set_result(run())
            except BaseException as error:
                end.set_exception(error)
            finally:
                self._queue.put(None)

        threading.Thread(target=work, name="ray-train", daemon=True).start()
        for metrics in iter(self._queue.get, None):
            to(metrics)
        return end.result()
