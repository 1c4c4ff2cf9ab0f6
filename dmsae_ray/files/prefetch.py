"""An iterator that runs in its own thread, a limited number of items ahead of its consumer."""

import queue
import threading
from collections.abc import Iterator
from types import TracebackType
from typing import Generic, TypeVar

T = TypeVar("T")
_POLL_SECONDS = 0.1  # time within which a thread notices that its consumer has ended


class ReaderClosed(Exception):
    """A wait ended because its reader was closed."""


class _End:
    pass


class Prefetcher(Generic[T]):
    """Yields the items of `source` in order; at most `depth` items are ready and not yet taken.

    Use it as a context manager. At its end it sets `closed`, which ends the thread (and those of nested readers that
    share the event), and waits for the thread.

    Args:
        source: iterated in the thread. It may end early with `ReaderClosed`; any other exception reaches the consumer.
        depth: number of items made ahead. The next item is begun only when there is room for it.
        closed: event that ends the reading; anyone may set it.
        name: name of the thread.
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
            del item  # it belongs to the consumer: do not keep its memory while the next item is made

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
