"""What an error means: does it pass by itself, or is it permanent? This is the only place that decides it.

Passing: a lost connection, a timeout, HTTP 429 or 5xx, a lost process, object or node, a disk that is full for a while.
Permanent: wrong data, a wrong setting, no permission, and everything that is not known here.
"""

import errno
import re
import socket
from collections.abc import Iterator

from dmsae_ray.errors import DmsaeError, TransientError, one_line

_LOST = (ConnectionError, TimeoutError, socket.gaierror)
# By name: which of these libraries is installed and used depends on versions, and some are not imported below Ray.
_LOST_NAMES = {
    "httpx.TransportError",
    "httpx2.TransportError",
    "requests.ConnectionError",
    "requests.Timeout",
    "requests.ChunkedEncodingError",
    "aiohttp.ClientConnectionError",
    "aiohttp.ClientPayloadError",
    "urllib3.HTTPError",
    "ray.RayActorError",
    "ray.NodeDiedError",
    "ray.ObjectLostError",
    "ray.WorkerCrashedError",
    "ray.LocalRayletDiedError",
    "ray.OutOfMemoryError",
    "ray.ObjectStoreFullError",
    "ray.OutOfDiskError",
    "ray.RpcError",
    "torch.DistBackendError",
    "torch.DistNetworkError",
    "torch.DistStoreError",
}
_NEVER_REACHED_NAMES = {"ConnectError", "ConnectTimeout", "NewConnectionError", "ConnectTimeoutError"}
"""As httpx, requests and urllib3 call it."""
_LOST_ERRNOS = {
    errno.ESTALE,
    errno.EHOSTDOWN,
    errno.EHOSTUNREACH,
    errno.ENETDOWN,
    errno.ENETRESET,
    errno.ENETUNREACH,
}
_FULL_ERRNOS = {errno.ENOSPC, errno.EDQUOT}
# The object stores of pyarrow report an outage only in the text of an OSError.
_LOST_WORDS = re.compile(
    r"AWS Error (NETWORK_CONNECTION|INTERNAL_FAILURE|SERVICE_UNAVAILABLE|THROTTLING|SLOW_DOWN|REQUEST_TIMEOUT)"
    r"|AWS Error UNKNOWN \(HTTP status (429|5\d\d)\)"
    r"|google::cloud::Status\((UNAVAILABLE|DEADLINE_EXCEEDED|RESOURCE_EXHAUSTED|INTERNAL|ABORTED)"
)
# What the other workers of a group say when one of them is lost.
_PEER_WORDS = re.compile(r"gloo/transport.*(closed|reset|refused|timed out)|NCCL.*(remote|closed|abort)", re.DOTALL)
_CHAIN = 32


def passes(error: BaseException) -> bool:
    """Return whether an error may pass by itself, or follows from one that may.

    The latest error in the chain that says what the network, a server, a disk or Ray did decides. A file that is
    missing in the Hub client's cache (LocalEntryNotFoundError) does not decide: it follows both from a Hub that is down
    and from a 404.
    """
    return next((_passes(link) for link in _chain(error) if _says_what_happened(link)), False)


def never_reached(error: BaseException) -> bool:
    """Return whether an error says that no connection to a server came about: no network, no such host, no listener."""
    return any(
        isinstance(link, (ConnectionRefusedError, socket.gaierror))
        or {kind.__name__ for kind in type(link).__mro__} & _NEVER_REACHED_NAMES
        for link in _chain(error)
    )


def is_full_disk(error: BaseException) -> bool:
    """Return whether an error says that a disk or a quota is full."""
    return any(isinstance(link, OSError) and link.errno in _FULL_ERRNOS for link in _chain(error))


def is_server_error(error: BaseException) -> bool:
    """Return whether an error is about reaching the data, not about their content."""
    return any(map(_says_what_happened, _chain(error))) or (isinstance(error, OSError) and error.errno is not None)


def http_status(error: BaseException) -> int | None:
    """Return the HTTP status of 400 or more with which a server answered; None if it is no such error."""
    return next((status for link in _chain(error) if (status := _status(link)) is not None), None)


def root_message(error: BaseException) -> str:
    """Return what went wrong, in one line.

    If the Hub could not be reached, `datasets` raises a FileNotFoundError about an unrelated local folder, and its
    client an error about a file that is not in the cache. The errors that caused these say more.
    """
    links = list(_chain(error))
    if passes(error):
        error = [link for link in links if _passes(link)][-1]
    elif isinstance(error, FileNotFoundError):
        error = next(filter(_says_what_happened, links), error)
    return one_line(error).partition(" For more information check: ")[0]  # httpx adds this to an HTTP status


def _chain(error: BaseException) -> Iterator[BaseException]:
    """Yield an error and its causes, also where `from None` hides them, and where Ray has wrapped them."""
    link: BaseException | None = error
    for _ in range(_CHAIN):
        if link is None or (isinstance(link, DmsaeError) and not isinstance(link, TransientError)):
            return
        yield link
        wrapped = getattr(link, "cause", None)
        if isinstance(wrapped, BaseException) and wrapped is not link:
            link = wrapped
        else:
            link = link.__cause__ if link.__cause__ is not None else link.__context__


def _says_what_happened(error: BaseException) -> bool:
    return _status(error) is not None or _is_lost(error)


def _passes(error: BaseException) -> bool:
    status = _status(error)
    return status == 429 or status >= 500 if status is not None else _is_lost(error)


def _is_lost(error: BaseException) -> bool:
    names = {f"{kind.__module__.partition('.')[0]}.{kind.__name__}" for kind in type(error).__mro__}
    if isinstance(error, (TransientError, *_LOST)) or names & _LOST_NAMES:
        return True
    if isinstance(error, OSError):
        return error.errno in _LOST_ERRNOS | _FULL_ERRNOS or _LOST_WORDS.search(str(error)) is not None
    return isinstance(error, RuntimeError) and _PEER_WORDS.search(str(error)) is not None


def _status(error: BaseException) -> int | None:
    """Return the HTTP status in an error of httpx or requests (`response.status_code`) or of aiohttp (`status`)."""
    status = getattr(getattr(error, "response", None), "status_code", getattr(error, "status", None))
    return status if isinstance(status, int) and status >= 400 else None
