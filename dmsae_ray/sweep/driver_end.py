"""The end of a trial's driver, which must not hang: Tune would wait for it without end."""

import faulthandler
import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

END_SECONDS = 120.0
STOP_SECONDS = 2.0


@contextmanager
def ends_in_time(seconds: float = END_SECONDS) -> Iterator[None]:
    """Context of a trial's function: when it is left, the process has `seconds` to end, or to begin another trial.

    After a trial, Tune's actor only passes on what is left of its reports. On a machine with too much to do it was seen
    to stop there for ever, in Ray's or Python's own code. Then the process ends, its stacks are in its log, and Tune
    begins the trial again, which finds all it has done. The timer is native, so it also runs when no Python does.
    """
    faulthandler.cancel_dump_traceback_later()
    try:
        yield
    finally:
        faulthandler.dump_traceback_later(seconds, exit=True, file=sys.__stderr__ or sys.stderr)


@contextmanager
def ends_when_stopped(seconds: float = STOP_SECONDS) -> Iterator[None]:
    """Context of a trial's function: if Tune stops the trial in it, the process ends `seconds` later.

    Tune only lets go of the actor of a trial that a scheduler stops. Ray keeps its process as long as others borrow
    what it owns, which Ray Train's controller does, as long as the process is there: neither ends, nor do the workers.
    When the process is gone, Ray ends the controller and frees their places.
    """
    from ray.train._internal.session import get_session  # what Tune's own integration with Train asks, too

    session: Any = get_session()
    left = threading.Event()

    def watch() -> None:
        session.stop_event.wait()
        if not left.wait(seconds):
            os._exit(0)

    threading.Thread(target=watch, name="dmsae-stopped", daemon=True).start()
    try:
        yield
    finally:
        left.set()
