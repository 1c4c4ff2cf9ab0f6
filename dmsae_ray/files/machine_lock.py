"""One process of this machine at a time."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


@contextmanager
def alone(lock: Path) -> Iterator[None]:
    """Let one process in at a time. Without file locks (some network disks) several may be in.

    Args:
        lock: a file that is made for this; its folder must exist.

    Raises:
        OSError: it cannot be written.
    """
    with lock.open("w") as file:
        with suppress(ImportError, OSError):
            import fcntl

            fcntl.flock(file, fcntl.LOCK_EX)
        yield
