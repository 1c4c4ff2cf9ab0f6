"""A harvest that goes on in a thread of the controller while trials read what it has written."""

import threading
from collections.abc import Callable
from contextlib import suppress
from types import TracebackType

from ray.exceptions import RayError

from dmsae_ray.config import Experiment
from dmsae_ray.errors import DataError, one_line
from dmsae_ray.files import Folder
from dmsae_ray.harvest import HarvestProgress, prepare
from dmsae_ray.store import ACTIVATIONS, read_layout

_POLL_SECONDS = 0.2
_END_SECONDS = 5.0
"""How long an interrupted harvest may take to end; then Ray's end is its end."""


class HarvestInterrupted(DataError):
    """A harvest that its controller has ended."""


class BackgroundHarvest:
    """Context in which activations are prepared by a thread; leaving it early ends the harvest.

    Args:
        experiment: what to make.
        root: folder of stores.
        key: of the store.
        progress: see `activations.prepare`; called from the thread.
        done: called from the thread at the end, with the reason if the harvest failed.
    """

    def __init__(
        self,
        experiment: Experiment,
        root: str,
        key: str,
        progress: Callable[[HarvestProgress], None] | None,
        done: Callable[[str | None], None],
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
        self._thread.join(_END_SECONDS)

    @property
    def failed(self) -> bool:
        """Whether it ended with an error."""
        return self._error is not None

    def wait_for_first_shard(self) -> None:
        """Return when the tokens are written and the first model actor has made a shard, or all is done.

        Raises:
            DmsaeError: what ended the harvest.
        """
        while self._thread.is_alive():
            if read_layout(self._folder) is not None and any(
                name.endswith(".json") for name in (self._folder / ACTIVATIONS).sizes()
            ):
                return
            self._thread.join(_POLL_SECONDS)
        self.finish()

    def finish(self) -> None:
        """Wait for the end.

        Raises:
            DmsaeError: what ended the harvest.
        """
        while self._thread.is_alive():
            self._thread.join(_POLL_SECONDS)  # in pieces: a Ctrl-C is heard between them
        if self._error is not None:
            raise self._error

    def _run(self) -> None:
        try:
            prepare(self._experiment, self._root, progress=self._tell)
        except BaseException as error:
            self._error = error
        with suppress(RayError):  # at the end of Ray's session nobody is there to be told
            self._done(None if self._error is None else one_line(self._error))

    def _tell(self, state: HarvestProgress) -> None:
        if self._stop.is_set():
            raise HarvestInterrupted("it was interrupted")
        if self._progress is not None:
            self._progress(state)
