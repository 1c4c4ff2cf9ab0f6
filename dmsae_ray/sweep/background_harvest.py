"""A harvest that runs in a thread of the controller while trials read what it has written."""

import threading
import time
from collections.abc import Callable
from types import TracebackType

from dmsae_ray.config import Experiment
from dmsae_ray.files import Folder
from dmsae_ray.harvest import HarvestInterrupted, HarvestProgress, end_datasets, prepare
from dmsae_ray.store import ACTIVATIONS, read_layout

_POLL_SECONDS = 0.2
_END_SECONDS = 5.0
"""How long an interrupted harvest may take to end; what is left, a wait for its storage, ends with the process."""


class BackgroundHarvest:
    """Context in which a thread prepares the activations; leaving it early ends the harvest.

    Args:
        experiment: The experiment whose activations to make.
        root: Folder of stores.
        key: Key of the store.
        progress: See `harvest.prepare`; called from the thread.
        done: Called from the thread at the end, with whether the harvest failed.
    """

    def __init__(
        self,
        experiment: Experiment,
        root: str,
        key: str,
        progress: Callable[[HarvestProgress], None] | None,
        done: Callable[[bool], None],
    ):
        self._experiment, self._root = experiment, root
        self._folder = Folder(root) / key
        self._progress, self._done = progress, done
        self._stop = threading.Event()
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="dmsae-harvest", daemon=True)

    def __enter__(self) -> "BackgroundHarvest":
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        until = time.monotonic() + _END_SECONDS
        while self._thread.is_alive() and time.monotonic() < until:
            end_datasets()
            self._thread.join(_POLL_SECONDS)

    @property
    def failed(self) -> bool:
        """Whether the harvest ended with an error."""
        return self._error is not None

    def wait_for_first_shard(self) -> None:
        """Wait until the tokens and the first shard of activations are written, or the harvest has ended.

        Raises:
            DmsaeError: The error that ended the harvest.
        """
        while self._thread.is_alive():
            if read_layout(self._folder) is not None and any(
                name.endswith(".json") for name in (self._folder / ACTIVATIONS).sizes()
            ):
                return
            self._thread.join(_POLL_SECONDS)
        self.finish()

    def finish(self) -> None:
        """Wait until the harvest has ended.

        Raises:
            DmsaeError: The error that ended the harvest.
        """
        while self._thread.is_alive():
            self._thread.join(_POLL_SECONDS)  # in short waits, so that Ctrl-C is noticed
        if self._error is not None:
            raise self._error

    def _run(self) -> None:
        try:
            prepare(self._experiment, self._root, progress=self._tell)
        except BaseException as error:
            self._error = error
        self._done(self.failed)

    def _tell(self, state: HarvestProgress) -> None:
        if self._stop.is_set():
            raise HarvestInterrupted("it was interrupted")
        if self._progress is not None:
            self._progress(state)
