"""Ctrl-C while a sweep runs: the first is acknowledged at once and stops it in order, the second ends it hard."""

import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from types import FrameType, TracebackType
from typing import Any

from dmsae_ray.cli.exit_codes import EXIT_INTERRUPTED

STOPPING = "stopping: the trials write what they have; Ctrl-C again ends hard"
_SAME_SECONDS = 0.5
"""Signals so soon after the first one are the same: a terminal and a program in between may both send it."""
_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_END = b"\0"


class Interrupts:
    """Context in which Ctrl-C, or a plain `kill`, stops what runs, and a second one ends this process.

    Python runs a handler only when its main thread comes back from native code, which may take long. So a thread reads
    what the system's own handler writes into a pipe: it answers at once, and can end the process. Ray's processes on
    this machine end with it, those on a cluster when Ray notices.

    Ray Tune would replace the handler of Ctrl-C. It is told not to; it stops its trials on SIGUSR1, too.

    Args:
        say: Called from the thread with what a person is told.
        stopping: What that is at the first Ctrl-C.
        last: Called right before the process ends hard.
    """

    def __init__(
        self, say: Callable[[str], None], last: Callable[[], None] = lambda: None, stopping: str = STOPPING
    ) -> None:
        self._say, self._last, self._stopping = say, last, stopping
        self._stopped = False
        self._handlers: dict[int, Any] = {}

    def __enter__(self) -> "Interrupts":
        if threading.current_thread() is not threading.main_thread():
            return self  # signals belong to the main thread
        os.environ.setdefault("TUNE_DISABLE_SIGINT_HANDLER", "1")
        self._read, self._write = os.pipe()
        os.set_blocking(self._write, False)
        self._before = signal.set_wakeup_fd(self._write, warn_on_full_buffer=False)
        self._without_tune = signal.getsignal(signal.SIGUSR1)
        self._handlers = {number: signal.signal(number, self._stop) for number in _SIGNALS}
        self._thread = threading.Thread(target=self._listen, name="dmsae-interrupts", daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not self._handlers:
            return
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(self._before)
        os.write(self._write, _END)
        self._thread.join()
        os.close(self._read)
        os.close(self._write)

    def _stop(self, number: int, frame: FrameType | None) -> None:
        """Stop what runs, the first time; the thread does what follows."""
        if self._stopped:
            return
        self._stopped = True
        if signal.getsignal(signal.SIGUSR1) not in (self._without_tune, signal.SIG_DFL, signal.SIG_IGN, None):
            signal.raise_signal(signal.SIGUSR1)  # Tune runs
        else:
            raise KeyboardInterrupt

    def _listen(self) -> None:
        first: float | None = None
        while (byte := os.read(self._read, 1)) != _END:
            if byte[0] not in _SIGNALS:
                continue
            now = time.monotonic()
            if first is None:
                first = now
                self._say(self._stopping)
            elif now - first > _SAME_SECONDS:
                self._end()

    def _end(self) -> None:
        with suppress(OSError, ValueError):
            self._last()
            # Not through Python's buffers, whose locks another thread may hold. Descriptor 2 may be a log of Ray's.
            os.write(sys.stderr.fileno(), b"\ndmsae: ended hard; the same command goes on where it stopped\n")
        os._exit(EXIT_INTERRUPTED)
