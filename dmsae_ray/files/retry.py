"""Outages of the network or of a server: which errors are outages, and how the work is repeated until they are over."""

import logging
import re
import socket
import sys
import time
from collections.abc import Callable, Iterator
from itertools import islice
from typing import TypeVar

from dmsae_ray.errors import DataError, DmsaeError, one_line

log = logging.getLogger(__name__)

RETRY_DELAYS = (2.0, 10.0, 30.0, 60.0, 120.0)
"""Seconds of waiting before each new try after an outage; the libraries make their own attempts within each try."""

HUB = "the Hub"
"""Name of the server from which `datasets` and hf:// read."""

_LOST = (ConnectionError, TimeoutError, socket.gaierror)
# By name: which of these libraries is installed and used depends on versions.
_LOST_NAMES = {
    "httpx.TransportError",
    "httpx2.TransportError",
    "requests.ConnectionError",
    "requests.Timeout",
    "requests.ChunkedEncodingError",
    "aiohttp.ClientConnectionError",
    "aiohttp.ClientPayloadError",
    "urllib3.HTTPError",
}
# The object stores of pyarrow report an outage only in the text of an OSError.
_LOST_WORDS = re.compile(
    r"AWS Error (NETWORK_CONNECTION|INTERNAL_FAILURE|SERVICE_UNAVAILABLE|THROTTLING|SLOW_DOWN|REQUEST_TIMEOUT)"
    r"|AWS Error UNKNOWN \(HTTP status (429|5\d\d)\)"
    r"|google::cloud::Status\((UNAVAILABLE|DEADLINE_EXCEEDED|RESOURCE_EXHAUSTED|INTERNAL|ABORTED)"
)
_CHAIN = 32

Item = TypeVar("Item")


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
        DataError: the server did not answer after the last of `RETRY_DELAYS` either. Other errors are raised unchanged.
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
            if not is_outage(error):
                raise
            place = f"{what}, behind document {delivered}" if delivered else what
            if server == HUB and _offline():
                raise DataError(
                    f"{place} cannot be asked of the Hub, HF_HUB_OFFLINE is set: {root_message(error)}"
                ) from None
            if failures >= len(RETRY_DELAYS):
                seconds = time.monotonic() - began
                raise DataError(
                    f"{place}: {server} did not answer after {failures + 1} tries in {seconds:.0f} s: "
                    f"{root_message(error)}"
                ) from None
            log.warning(
                "%s: %s does not answer (%s); next try in %g s",
                place,
                server,
                root_message(error),
                RETRY_DELAYS[failures],
            )
            time.sleep(RETRY_DELAYS[failures])
            failures += 1


def call_with_retries(call: Callable[[], Item], what: str, server: str) -> Item:
    """Return `call()`, repeated after an outage; see `iterate_with_retries`."""
    return next(iterate_with_retries(lambda: iter([call()]), what, server))


def is_outage(error: BaseException) -> bool:
    """Return whether an error may pass by itself: a lost connection, a timeout, HTTP 429 or 5xx, or a result of one.

    The latest error in the chain that says what the network or a server did decides. A file that is missing in the Hub
    client's cache (LocalEntryNotFoundError) does not decide: it follows both from a Hub that is down and from a 404.
    """
    return next((_passes(link) for link in _chain(error) if _says_what_happened(link)), False)


def is_server_error(error: BaseException) -> bool:
    """Return whether an error is about reaching the data, not about their content."""
    return any(map(_says_what_happened, _chain(error))) or (isinstance(error, OSError) and error.errno is not None)


def root_message(error: BaseException) -> str:
    """Return what went wrong, in one line.

    If the Hub could not be reached, `datasets` raises a FileNotFoundError about an unrelated local folder, and its
    client an error about a file that is not in the cache. The errors that caused these say more.
    """
    links = list(_chain(error))
    if is_outage(error):
        error = [link for link in links if _passes(link)][-1]
    elif type(error) is FileNotFoundError:
        error = next(filter(_says_what_happened, links), error)
    return one_line(error).partition(" For more information check: ")[0]  # httpx adds this to an HTTP status


def _chain(error: BaseException) -> Iterator[BaseException]:
    """Yield an error and its causes, also where `from None` hides them."""
    link: BaseException | None = error
    for _ in range(_CHAIN):
        if link is None or isinstance(link, DmsaeError):
            return
        yield link
        link = link.__cause__ if link.__cause__ is not None else link.__context__


def _offline() -> bool:
    """Return whether the Hub's client or `datasets`, if this process has imported them, is in offline mode."""
    modules = (sys.modules.get(name) for name in ("huggingface_hub.constants", "datasets.config"))
    return any(getattr(module, "HF_HUB_OFFLINE", False) for module in modules)


def _says_what_happened(error: BaseException) -> bool:
    return _status(error) is not None or _is_lost(error)


def _passes(error: BaseException) -> bool:
    status = _status(error)
    return status == 429 or status >= 500 if status is not None else _is_lost(error)


def _is_lost(error: BaseException) -> bool:
    names = {f"{kind.__module__.partition('.')[0]}.{kind.__name__}" for kind in type(error).__mro__}
    if isinstance(error, _LOST) or names & _LOST_NAMES:
        return True
    return isinstance(error, OSError) and _LOST_WORDS.search(str(error)) is not None


def _status(error: BaseException) -> int | None:
    """Return the HTTP status in an error of httpx or requests (`response.status_code`) or of aiohttp (`status`)."""
    status = getattr(getattr(error, "response", None), "status_code", getattr(error, "status", None))
    return status if isinstance(status, int) and status >= 400 else None
