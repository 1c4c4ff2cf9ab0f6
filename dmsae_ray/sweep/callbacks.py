"""Callbacks of Ray Tune that stay in the controller's process."""

from collections.abc import Sequence
from typing import Any

from ray.tune import Callback

from dmsae_ray.results import Folders, failure_in


class StayingCallbacks(Callback):
    """Forward Tune's trial events to callbacks that hold threads, files or a terminal.

    Tune pickles its callbacks into its experiment state. These callbacks are left out of it, since that state is never
    read.
    """

    def __init__(self, callbacks: Sequence[Callback]) -> None:
        self._callbacks = list(callbacks)

    def __getstate__(self) -> dict[str, Any]:
        return {"_callbacks": []}

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Forward the start of a trial."""
        for callback in self._callbacks:
            callback.on_trial_start(iteration, trials, trial, **info)

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        """Forward a report of a trial."""
        for callback in self._callbacks:
            callback.on_trial_result(iteration, trials, trial, result, **info)

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Forward the end of a trial, as an error if it is one; for Tune, a trial that cannot go on is complete."""
        failed = failure_in(trial.last_result) is not None
        for callback in self._callbacks:
            (callback.on_trial_error if failed else callback.on_trial_complete)(iteration, trials, trial, **info)

    def on_trial_recover(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Forward that a trial is started again, because its driver or Train's controller was lost."""
        for callback in self._callbacks:
            callback.on_trial_recover(iteration, trials, trial, **info)


class FetchSummaries(Callback):
    """Copy the result of a finished trial to the controller's machine before other callbacks read it."""

    def __init__(self, folders: Folders) -> None:
        self._folders = folders

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Copy the result of a trial that ended well."""
        self._folders.fetch(trial.config["trial_id"])
