"""Outages of the network or of the server behind it: which errors are one, and trying again until it is over."""

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
"""Seconds before what failed in an outage is tried again; the libraries' own attempts come within each try."""

HUB = "the Hub"
"""The server of which everything that `datasets` or hf:// reads is asked."""

_LOST = (ConnectionError, TimeoutError, socket.gaierror)
# By name: which of these libraries is there, and asked, is a matter of versions.
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
# The object stores of pyarrow say it in words only.
_LOST_WORDS = re.compile(
    r"AWS Error (NETWORK_CONNECTION|INTERNAL_FAILURE|SERVICE_UNAVAILABLE|THROTTLING|SLOW_DOWN|REQUEST_TIMEOUT)"
    r"|AWS Error UNKNOWN \(HTTP status (429|5\d\d)\)"
    r"|google::cloud::Status\((UNAVAILABLE|DEADLINE_EXCEEDED|RESOURCE_EXHAUSTED|INTERNAL|ABORTED)"
)
_CHAIN = 32

Item = TypeVar("Item")


def iterate_with_retries(make: Callable[[], Iterator[Item]], what: str, server: str) -> Iterator[Item]:
    """Iterate `make()`; after an outage begin again, past the items that were delivered.

    Args:
        make: gives the same items every time.
        what: field and value, or the file.
        server: who did not answer; in the offline mode of its client the Hub is not waited for.

    Raises:
        DataError: there was no answer after the last of `RETRY_DELAYS` either. Other errors come out as they are.
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
                    f"{place}: {server} did not answer after {failures + 1} tries in {seconds:.0f} s: {root_message(error)}"
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
    """`call()`, after an outage again; see `iterate_with_retries`."""
    return next(iterate_with_retries(lambda: iter([call()]), what, server))


def is_outage(error: BaseException) -> bool:
    """Whether an error may pass by itself: a lost connection, a timeout, HTTP 429 or 5xx, or one that came of those.

    The latest error of the chain that says what the network or a server did decides. A file that is missing in the Hub
    client's cache (LocalEntryNotFoundError) does not: it comes of a Hub that is down, and of one that says 404.
    """
    return next((_passes(link) for link in _chain(error) if _says_what_happened(link)), False)


def is_server_error(error: BaseException) -> bool:
    """Whether an error is about reaching what is read, rather than about what it holds."""
    return any(map(_says_what_happened, _chain(error))) or (isinstance(error, OSError) and error.errno is not None)


def root_message(error: BaseException) -> str:
    """What went wrong, in one line.

    For a Hub that could not be asked `datasets` ends with a FileNotFoundError about a local folder nobody meant, and
    its client with a file that is not in the cache: what they came of says more.
    """
    links = list(_chain(error))
    if is_outage(error):
        error = [link for link in links if _passes(link)][-1]
    elif type(error) is FileNotFoundError:
        error = next(filter(_says_what_happened, links), error)
    return one_line(error).partition(" For more information check: ")[0]  # what httpx adds to an HTTP status


def _chain(error: BaseException) -> Iterator[BaseException]:
    """An error and those it came of, also where `from None` hides them."""
    link: BaseException | None = error
    for _ in range(_CHAIN):
        if link is None or isinstance(link, DmsaeError):
            return
        yield link
        link = link.__cause__ if link.__cause__ is not None else link.__context__


def _offline() -> bool:
    """Whether the Hub's client or `datasets` may not ask anybody, as far as this process has imported them."""
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
    """The HTTP status that an error of httpx or requests (`response.status_code`) or aiohttp (`status`) carries."""
    status = getattr(getattr(error, "response", None), "status_code", getattr(error, "status", None))
    return status if isinstance(status, int) and status >= 400 else None
