"""How work is repeated until what hinders it has passed; `faults` decides what may pass."""

import logging
import math
import random
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import islice
from typing import TypeVar

from dmsae_ray.errors import DataError, TransientError
from dmsae_ray.files.faults import is_full_disk, passes, root_message

log = logging.getLogger(__name__)

RETRY_DELAYS = (2.0, 10.0, 30.0, 60.0, 120.0)
"""Seconds of waiting before each new try after an outage; the libraries make their own attempts within each try."""

PATIENCE_SECONDS = 6 * 3600.0
"""How long a storage that does not answer is waited for by long work."""
FULL_DISK_SECONDS = 120.0
"""How long a full disk is waited for, by all of a process together: who must delete something needs to be told soon."""
FULL_DISK_WORD_SECONDS = 30.0
"""How often a process says that a disk is full: all that writes on it meets it."""
START_SECONDS = 5.0
"""How long a storage is waited for elsewhere: by short commands, and at the start, when it has never been reached."""
_PAUSES = (1.0, 60.0)  # seconds before the first new try, and at most

HUB = "the Hub"
"""Name of the server from which `datasets` and hf:// read."""

Item = TypeVar("Item")

_patience = START_SECONDS
_full_since: float | None = None  # since when this process has met a full disk and written nothing
_full_said = -math.inf


def retry_outages(call: Callable[[], Item], what: str) -> Item:
    """Return `call()`, a piece of work on a storage, repeated while an error of the operating system may pass.

    Args:
        call: the work; it must be possible to repeat it.
        what: what is read or written, for messages.

    Raises:
        OSError: an error that does not pass, or did not pass within this process's `patience`.
    """
    global _full_since
    began: float | None = None
    pause, longest = _PAUSES
    while True:
        try:
            done = call()
            _full_since = None
            return done
        except OSError as error:
            if not passes(error):
                raise
            now, full = time.monotonic(), is_full_disk(error)
            began = now if began is None else began
            since, most = began, _patience
            if full:
                _full_since = since = now if _full_since is None else _full_since
                most = min(FULL_DISK_SECONDS, _patience)
            if now + pause - since > most:
                if full and error.filename is None:
                    error.filename = what
                raise
            if not (full and _said_lately()):
                log.warning("%s: %s; next try in %.0f s", what, root_message(error), pause)
            # Not all at the same moment: many workers wait for one server.
            time.sleep(pause * random.uniform(0.75, 1.25))
            pause = min(2 * pause, longest)


def _said_lately() -> bool:
    """Return whether this process has just said that a disk is full; if not, it says so now."""
    global _full_said
    now = time.monotonic()
    if now - _full_said < FULL_DISK_WORD_SECONDS:
        return True
    _full_said = now
    return False


def be_patient() -> None:
    """From now on wait `PATIENCE_SECONDS` for a storage: for a process that does nothing but a part of long work."""
    global _patience
    _patience = PATIENCE_SECONDS


@contextmanager
def patience(seconds: float) -> Iterator[None]:
    """Within the context, wait so long for a storage; elsewhere `START_SECONDS`, so that wrong addresses are told soon.

    It holds for the whole process.
    """
    global _patience
    before, _patience = _patience, seconds
    try:
        yield
    finally:
        _patience = before


def iterate_with_retries(make: Callable[[], Iterator[Item]], what: str, server: str) -> Iterator[Item]:
    """Iterate over `make()`; after an outage start again and skip the items that were already yielded.

    If the client of the Hub is in offline mode, an outage of the Hub is an error at once.

    Args:
        make: returns an iterator over the same items each time.
        what: what is read, for messages: a field with its value, or the file.
        server: name of the server, for messages.

    Yields:
        The items of `make()`.

    Raises:
        TransientError: the server did not answer after the last of `RETRY_DELAYS` either; a harvest tries again.
        DataError: the Hub would have to be asked, and its client is in offline mode. Other errors are raised unchanged.
    """
    delivered, failures = 0, 0
    began = time.monotonic()
    while True:
        try:
            for item in islice(make(), delivered, None):
                delivered, failures = delivered + 1, 0
                yield item
                began = time.monotonic()
            return
        except Exception as error:
            if not passes(error):
                raise
            place = f"{what}, behind document {delivered}" if delivered else what
            full = is_full_disk(error)
            if server == HUB and not full and _offline():
                raise DataError(
                    f"{place} cannot be asked of the Hub, HF_HUB_OFFLINE is set: {root_message(error)}"
                ) from None
            if failures >= len(RETRY_DELAYS):
                seconds = time.monotonic() - began
                trouble = "the disk was full" if full else f"{server} did not answer"
                raise TransientError(
                    f"{place}: {trouble} after {failures + 1} tries in {seconds:.0f} s: {root_message(error)}"
                ) from None
            log.warning(
                "%s: %s (%s); next try in %g s",
                place,
                "the disk is full" if full else f"{server} does not answer",
                root_message(error),
                RETRY_DELAYS[failures],
            )
            time.sleep(RETRY_DELAYS[failures])
            failures += 1


def call_with_retries(call: Callable[[], Item], what: str, server: str) -> Item:
    """Return `call()`, repeated after an outage; see `iterate_with_retries`."""
    return next(iterate_with_retries(lambda: iter([call()]), what, server))


def _offline() -> bool:
    """Return whether the Hub's client or `datasets`, if this process has imported them, is in offline mode."""
    modules = (sys.modules.get(name) for name in ("huggingface_hub.constants", "datasets.config"))
    return any(getattr(module, "HF_HUB_OFFLINE", False) for module in modules)
