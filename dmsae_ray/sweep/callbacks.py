"""Callbacks of Ray Tune that stay in the controller's process."""

from collections.abc import Mapping, Sequence
from typing import Any

from ray.tune import Callback

from dmsae_ray.results import Folders, failure_in


class StayingCallbacks(Callback):
    """Forward Tune's trial events to callbacks that hold threads, files or a terminal.

    Tune pickles its callbacks into its experiment state. These callbacks are left out of it, since that state is never
    read.
    """

    def __init__(self, callbacks: Sequence[Callback], folders: Folders, scheduler: str | None = None) -> None:
        """Forward to callbacks.

        Args:
            callbacks: The callbacks; where one has `on_trial_stopped(trial_id, params, reason)`, it is told that too.
            folders: Where the results of trials are.
            scheduler: What may stop trials; None if nothing does.
        """
        self._callbacks, self._folders, self._scheduler = list(callbacks), folders, scheduler

    def __getstate__(self) -> dict[str, Any]:
        return {"_callbacks": [], "_folders": None, "_scheduler": None}

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
        """Forward the end of a trial, as what it is; for Tune, one that cannot go on, or was stopped, is complete."""
        failed, name = failure_in(trial.last_result) is not None, trial.config["trial_id"]
        if self._scheduler is not None and not failed and self._folders.fetch(name) is None:
            reason = f"{self._scheduler} stopped it{_place(trial.last_result)}"
            self._folders.mark_stopped(name, reason)
            for callback in self._callbacks:
                if hasattr(callback, "on_trial_stopped"):
                    callback.on_trial_stopped(name, trial.config["params"], reason)
            return
        for callback in self._callbacks:
            (callback.on_trial_error if failed else callback.on_trial_complete)(iteration, trials, trial, **info)

    def on_trial_recover(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Forward that a trial is started again, because its driver or Train's controller was lost."""
        for callback in self._callbacks:
            callback.on_trial_recover(iteration, trials, trial, **info)


def _place(result: Mapping[str, Any]) -> str:
    """Say where a trial was in its last report."""
    if not {"cycle", "tokens"} <= result.keys():
        return ""
    return f" in cycle {result['cycle']:.0f}, after {result['tokens']:,.0f} tokens"


class FetchSummaries(Callback):
    """Copy the result of a finished trial to the controller's machine before other callbacks read it."""

    def __init__(self, folders: Folders) -> None:
        self._folders = folders

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Copy the result of a trial that ended well."""
        self._folders.fetch(trial.config["trial_id"])
