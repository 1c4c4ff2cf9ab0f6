"""Callbacks of Ray Tune that stay in the controller's process."""

from collections.abc import Mapping, Sequence
from typing import Any

from ray.tune import Callback
from ray.tune.schedulers import TrialScheduler

from dmsae_ray.results import Folders, Steered, StoppedTrial, failure_in, known_in


class Stops:
    """Tell and record which trials a scheduler has stopped.

    Args:
        scheduler: The scheduler.
        folders: Where the results of trials are.
        steered: The record of the sweep.
    """

    def __init__(self, scheduler: TrialScheduler, folders: Folders, steered: Steered) -> None:
        self.scheduler, self._folders, self._steered = scheduler, folders, steered

    def note(self, trial_id: str, result: Mapping[str, Any]) -> str | None:
        """Return why a trial that ended with `result` was stopped, and record it; None if it finished."""
        if self._folders.fetch(trial_id) is not None:
            return None
        numbers = known_in(result)
        place = f" after cycle {numbers['cycle']:.0f}" if "cycle" in numbers else ""
        place += f" at {numbers['tokens']:,.0f} tokens" if "tokens" in numbers else ""
        stopped = StoppedTrial(f"{type(self.scheduler).__name__} stopped it{place}", numbers)
        self._steered.stopped[trial_id] = stopped
        self._steered.write(self._folders)
        return stopped.reason


class StayingCallbacks(Callback):
    """Forward Tune's trial events to callbacks that hold threads, files or a terminal.

    Tune pickles its callbacks into its experiment state. These callbacks are left out of it, since that state is never
    read.
    """

    def __init__(self, callbacks: Sequence[Callback], stops: Stops | None = None) -> None:
        """Forward to callbacks.

        Args:
            callbacks: The callbacks; where one has `on_trial_stopped(trial_id, reason)`, it is told that too.
            stops: Tells which trials were stopped; None if nothing stops any.
        """
        self._callbacks, self._stops = list(callbacks), stops

    def __getstate__(self) -> dict[str, Any]:
        return {"_callbacks": [], "_stops": None}

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
        failed = failure_in(trial.last_result) is not None
        if not failed and self._stops is not None:
            name, reason = trial.config["trial_id"], self._stops.note(trial.config["trial_id"], trial.last_result)
            if reason is not None:
                for callback in self._callbacks:
                    if hasattr(callback, "on_trial_stopped"):
                        callback.on_trial_stopped(name, reason)
                return
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
