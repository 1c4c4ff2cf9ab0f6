"""Copies of files on a disk of this machine, shared by all its processes and bounded in size."""

import fcntl
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from dmsae_ray.files.folder import Folder

_FREE_SHARE = 0.25
_PASSING, _LASTING = "passing", "lasting"
_LOCK = "lock"


class NodeCache:
    """A folder of copies, each named by its content.

    Several processes that want the same copy at the same time wait until one of them has made it. Where there is no
    room for a new one, others are deleted: the ones that were not used for the longest time, and lasting ones last. Who
    reads a deleted copy keeps it until it is closed: for so long the disk holds more than the bound. Where the folder
    cannot be written, or the disk is full, each copy is a temporary file ($TMPDIR).

    The folder may be deleted at any time.

    Args:
        folder: Where the copies are.
        most_bytes: How much they may take together; by default, a quarter of the disk's space that is not used by
            others.
    """

    def __init__(self, folder: Path, most_bytes: int | None = None) -> None:
        self._folder, self._most = folder, most_bytes

    @property
    def most_bytes(self) -> int:
        """How much the copies may take together."""
        if self._most is not None:
            return self._most
        held = sum(stat.st_size for _, stat in self._copies())
        return int(_FREE_SHARE * ((Folder(str(self._folder)).free_bytes() or 0) + held))

    def open(self, name: str, size: int, fill: Callable[[IO[bytes]], None], *, lasting: bool = False) -> IO[bytes]:
        """Return a copy, open for reading; make it if it is not there.

        Args:
            name: Name of the content, such as its checksum.
            size: Its size in bytes.
            fill: Writes it to an empty file.
            lasting: Whether the copy is kept while there are others: what is read again and again, in an order that is
                longer than the cache, would otherwise always just have been deleted.

        Raises:
            OSError: The copy cannot be read or written. What `fill` raises is raised unchanged.
        """
        path = self._folder / (_LASTING if lasting else _PASSING) / name
        found = self._find(path, size)
        if found is not None:
            return found
        try:
            part = self._begin(path)
        except OSError:
            return _unnamed(fill)
        try:
            found = self._find(path, size)  # another process may have made it meanwhile
            if found is None and self._reserve(part, size):
                fill(part)
                part.flush()
                with suppress(FileNotFoundError):  # there was no room for it any more
                    _part(path).rename(path)
                fcntl.flock(part, fcntl.LOCK_UN)
                part.seek(0)
                return part
        except BaseException:
            _abandon(part, path)
            raise
        _abandon(part, path)
        return _unnamed(fill) if found is None else found

    def drop(self, name: str) -> None:
        """Delete a copy, if it is there."""
        for kind in (_PASSING, _LASTING):
            (self._folder / kind / name).unlink(missing_ok=True)

    def _find(self, path: Path, size: int) -> IO[bytes] | None:
        with suppress(OSError):
            found = open(path, "rb")  # noqa: SIM115, the caller closes it
            if os.fstat(found.fileno()).st_size == size:
                with suppress(OSError):
                    os.utime(found.fileno())
                return found
            found.close()
            path.unlink(missing_ok=True)
        return None

    def _begin(self, path: Path) -> IO[bytes]:
        """Return the file that will be a copy; no other process has it. A process that dies lets go of it."""
        path.parent.mkdir(parents=True, exist_ok=True)
        while True:
            part = os.fdopen(os.open(_part(path), os.O_RDWR | os.O_CREAT, 0o600), "r+b")
            fcntl.flock(part, fcntl.LOCK_EX)
            with suppress(FileNotFoundError):
                if os.path.samestat(_part(path).stat(), os.fstat(part.fileno())):
                    return part
            part.close()  # it is the copy now, or was deleted

    def _reserve(self, part: IO[bytes], size: int) -> bool:
        """Make room for a copy, and take it; return whether there is so much room, in the cache and on the disk."""
        with self._locked():
            part.truncate(0)
            most = self.most_bytes
            if size > most:
                return False
            own = os.fstat(part.fileno()).st_ino
            copies = sorted(self._copies(), key=lambda copy: (copy[0].parent.name == _LASTING, copy[1].st_mtime_ns))
            held = sum(stat.st_size for _, stat in copies)
            for path, stat in copies:
                if held + size <= most and _take(part, size):
                    return True
                if stat.st_ino != own:
                    path.unlink(missing_ok=True)
                    held -= stat.st_size
            return _take(part, size)

    def _copies(self) -> list[tuple[Path, os.stat_result]]:
        """Return path and state of each copy, those that are being made included."""
        found = []
        for kind in (_PASSING, _LASTING):
            with suppress(OSError), os.scandir(self._folder / kind) as entries:
                for entry in entries:
                    with suppress(FileNotFoundError):
                        found.append((Path(entry.path), entry.stat()))
        return found

    @contextmanager
    def _locked(self) -> Iterator[None]:
        self._folder.mkdir(parents=True, exist_ok=True)
        with open(self._folder / _LOCK, "ab") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield


def _part(path: Path) -> Path:
    return path.with_name(f"{path.name}.part")


def _abandon(part: IO[bytes], path: Path) -> None:
    _part(path).unlink(missing_ok=True)
    part.close()


def _unnamed(fill: Callable[[IO[bytes]], None]) -> IO[bytes]:
    """Return a copy that is in no folder."""
    file = tempfile.TemporaryFile(prefix="dmsae-")  # noqa: SIM115, the caller closes it
    try:
        fill(file)
        file.seek(0)
    except BaseException:
        file.close()
        raise
    return file


def _take(file: IO[bytes], size: int) -> bool:
    """Take room on the disk for a file of this size; return whether there is so much."""
    try:
        os.posix_fallocate(file.fileno(), 0, size)
    except OSError:
        return False
    return True
