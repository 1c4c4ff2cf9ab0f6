"""A thread of the controller that looks at the cluster again and again, as long as a context lasts."""

import threading
from abc import ABC, abstractmethod
from contextlib import suppress
from types import TracebackType
from typing import Self

from ray.exceptions import RayError

_END_SECONDS = 2.0


class ClusterWatch(ABC):
    """Context in which a thread calls `look` every `poll_seconds`; a look that fails is left out.

    Args:
        name: Name of the thread.
        poll_seconds: Seconds between two looks.
    """

    def __init__(self, name: str, poll_seconds: float) -> None:
        self._poll = poll_seconds
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    @abstractmethod
    def look(self) -> None:
        """Look at the cluster once."""

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end.set()
        self._thread.join(_END_SECONDS)

    def _run(self) -> None:
        while not self._end.wait(self._poll):
            self._look()

    def _look(self) -> None:
        # The head does not answer, or the session ends; the next look may succeed.
        with suppress(RayError, ConnectionError, RuntimeError):
            self.look()
