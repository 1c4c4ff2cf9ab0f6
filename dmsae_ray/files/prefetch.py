"""An iterator that a thread of its own runs ahead of its consumer, by a bounded number of items."""

import queue
import threading
from collections.abc import Iterator
from types import TracebackType
from typing import Generic, TypeVar

T = TypeVar("T")
_POLL_SECONDS = 0.1  # how late a thread may notice that its consumer has gone


class ReaderClosed(Exception):
    """A wait was given up because its reader was closed."""


class _End:
    pass


class Prefetcher(Generic[T]):
    """Items of `source`, in order, of which at most `depth` are made and not yet taken.

    Use it as a context: leaving it sets `closed`, which ends the thread (and those of nested readers that share the
    event), and waits for the thread.

    Args:
        source: run in the thread. It may end early with `ReaderClosed`; another exception reaches the consumer.
        depth: items made ahead. The next one is begun only when there is room for it.
        closed: set by whoever wants no more.
        name: of the thread.
    """

    def __init__(self, source: Iterator[T], depth: int, closed: threading.Event, name: str):
        self._source, self._closed = source, closed
        self._room = threading.Semaphore(depth)
        self._ready: queue.Queue[T | BaseException | _End] = queue.Queue()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def __enter__(self) -> "Prefetcher[T]":
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._closed.set()
        self._thread.join()

    def __iter__(self) -> Iterator[T]:
        while True:
            try:
                item = self._ready.get(timeout=_POLL_SECONDS)
            except queue.Empty:
                if self._closed.is_set():
                    raise ReaderClosed from None
                continue
            if isinstance(item, BaseException):
                raise item
            if isinstance(item, _End):
                return
            self._room.release()
            yield item
            del item  # the consumer's, and not ours to keep while the next one is made

    def _run(self) -> None:
        try:
            while self._wait_for_room():
                try:
                    item = next(self._source)
                except StopIteration:
                    self._ready.put(_End())
                    return
                self._ready.put(item)
                del item
        except ReaderClosed:
            return
        except BaseException as error:
            self._ready.put(error)

    def _wait_for_room(self) -> bool:
        while not self._closed.is_set():
            if self._room.acquire(timeout=_POLL_SECONDS):
                return True
        return False
