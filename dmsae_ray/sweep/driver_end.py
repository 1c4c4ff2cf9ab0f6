"""The end of a trial's driver, which must not hang: Tune would wait for it without end."""

import faulthandler
import sys
from collections.abc import Iterator
from contextlib import contextmanager

END_SECONDS = 120.0


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
