"""Files on any pyarrow filesystem; each is written whole or not at all.

A storage that does not answer is waited for (`retry.retry_outages`); what an error says then is final.
"""

import os
import shutil
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import IO

from pyarrow import fs

from dmsae_ray.errors import ConfigError, DataError, one_line
from dmsae_ray.files.atomic import remove_temporaries, replacing
from dmsae_ray.files.checksums import Buffer
from dmsae_ray.files.retry import retry_outages

_LOCAL = ("file", "local")
_PIECE, _SMALLEST_PIECE = 8 << 20, 1 << 20
CONNECTIONS = 16
"""Pieces of a file that are read at the same time."""


@dataclass(frozen=True)
class Folder:
    """A folder, given by a local path or a URI. Small and picklable.

    Attributes:
        uri: local path or URI (s3://, gs://, file://, hf://).
    """

    uri: str

    def __truediv__(self, name: str) -> "Folder":
        # Options of a URI (s3://bucket/a?region=b) stay behind the path.
        path, mark, options = self.uri.partition("?") if "://" in self.uri else (self.uri, "", "")
        return Folder(f"{path.rstrip('/')}/{name}{mark}{options}")

    def __str__(self) -> str:
        """Return the path or URI without the options and credentials that a URI may carry."""
        if "://" not in self.uri:
            return self.uri
        scheme, _, rest = self.uri.partition("?")[0].partition("://")
        host, slash, path = rest.partition("/")
        return f"{scheme}://{host.rpartition('@')[2]}{slash}{path}"

    @property
    def local(self) -> Path | None:
        """The folder as a local path; None on an object store."""
        system, path = filesystem(self.uri)
        return Path(path) if isinstance(system, fs.LocalFileSystem) else None

    def read(self, name: str) -> bytes | None:
        """Return the bytes of a file; None if it does not exist.

        Raises:
            DataError: the file cannot be read.
        """
        system, path = filesystem(self.uri)

        def read_whole() -> bytes:
            with system.open_input_stream(f"{path}/{name}") as stream:
                return bytes(stream.read())

        try:
            return retry_outages(read_whole, str(self / name))
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise DataError(f"{self / name} cannot be read: {one_line(error)}") from error

    def copy_to(self, name: str, target: IO[bytes], *, connections: int = CONNECTIONS) -> bool:
        """Append the bytes of a file to an open file; return False if the file does not exist.

        Pieces are read at the same time, since an object store limits the rate of each connection.

        Args:
            name: name of the file.
            target: a file of the operating system, open for writing.
            connections: how many pieces are read at the same time; each takes 8 MiB of memory.

        Raises:
            DataError: the file cannot be read.
        """
        system, path = filesystem(self.uri)
        target.flush()
        begin, descriptor = target.tell(), target.fileno()
        try:
            size = self.size(name)
            if size is None:
                return False
            step = min(_PIECE, max(_SMALLEST_PIECE, -(-size // connections)))
            with (
                retry_outages(lambda: system.open_input_file(f"{path}/{name}"), str(self / name)) as source,
                ThreadPoolExecutor(connections, thread_name_prefix="dmsae-copy") as readers,
            ):

                def copy(start: int) -> None:
                    length = min(step, size - start)
                    piece = retry_outages(lambda: source.read_at(length, start), str(self / name))
                    if len(piece) != length:
                        raise OSError(f"{len(piece)} of {length} bytes came from byte {start} on")
                    left, at = memoryview(piece), begin + start
                    while left:
                        written = retry_outages(
                            partial(os.pwrite, descriptor, left, at), "the disk for temporary files"
                        )
                        left, at = left[written:], at + written

                for _ in readers.map(copy, range(0, size, step)):
                    pass
        except FileNotFoundError:
            return False
        except OSError as error:
            raise DataError(f"{self / name} cannot be read: {one_line(error)}") from error
        target.seek(begin + size)
        return True

    def size(self, name: str) -> int | None:
        """Return the size of a file in bytes; None if it does not exist.

        Raises:
            DataError: the filesystem does not answer.
        """
        system, path = filesystem(self.uri)
        try:
            info = retry_outages(lambda: system.get_file_info(f"{path}/{name}"), str(self / name))
        except OSError as error:
            raise DataError(f"{self / name} cannot be looked at: {one_line(error)}") from error
        return int(info.size) if info.type == fs.FileType.File else None

    def entries(self, *, recursive: bool = False) -> list[fs.FileInfo]:
        """Return the files and folders in the folder; none if it does not exist.

        Raises:
            DataError: the folder cannot be listed.
        """
        system, path = filesystem(self.uri)
        selector = fs.FileSelector(path, allow_not_found=True, recursive=recursive)
        try:
            return list(retry_outages(lambda: system.get_file_info(selector), str(self)))
        except OSError as error:
            raise DataError(f"{self} cannot be listed: {one_line(error)}") from error

    def sizes(self) -> dict[str, int]:
        """Return the sizes in bytes of the folder's files, by name; none if the folder does not exist.

        Raises:
            DataError: the folder cannot be listed.
        """
        found = sorted(self.entries(), key=lambda info: str(info.path))
        return {info.base_name: int(info.size) for info in found if info.is_file}

    def write(self, name: str, pieces: Sequence[Buffer]) -> None:
        """Write a file so that it appears whole or not at all; an existing file is replaced.

        On a local disk, a temporary file is moved to the name, and the temporary files of killed writers are removed.
        An object store shows an object only after it is closed.

        Raises:
            ConfigError: the file cannot be written.
        """
        system, path = filesystem(self.uri)

        def write_whole() -> None:
            if isinstance(system, fs.LocalFileSystem):
                target = Path(path) / name
                target.parent.mkdir(parents=True, exist_ok=True)
                with replacing(target, durable=True) as temporary, open(temporary, "wb") as file:
                    file.writelines(pieces)
                remove_temporaries(target)
            else:
                with system.open_output_stream(f"{path}/{name}") as stream:
                    for piece in pieces:
                        stream.write(piece)

        try:
            retry_outages(write_whole, str(self / name))
        except OSError as error:
            raise ConfigError(f"output: {self / name} cannot be written: {one_line(error)}") from error

    def delete(self, name: str) -> None:
        """Delete a file if it exists.

        Raises:
            DataError: the file cannot be deleted.
        """
        system, path = filesystem(self.uri)
        try:
            with suppress(FileNotFoundError):
                retry_outages(lambda: system.delete_file(f"{path}/{name}"), str(self / name))
        except OSError as error:
            raise DataError(f"{self / name} cannot be deleted: {one_line(error)}") from error

    def remove(self) -> None:
        """Remove the folder and everything in it, if it exists.

        Raises:
            DataError: the folder cannot be removed.
        """
        system, path = filesystem(self.uri)
        try:
            with suppress(FileNotFoundError):
                retry_outages(lambda: system.delete_dir(path), str(self))
        except OSError as error:
            raise DataError(f"{self} cannot be removed: {one_line(error)}") from error

    def free_bytes(self) -> int | None:
        """Return the free bytes of the disk where a local folder is or will be; None on an object store."""
        place = self.local
        if place is None:
            return None
        while not place.exists() and place != place.parent:
            place = place.parent
        return shutil.disk_usage(place).free


@lru_cache(maxsize=64)
def filesystem(uri: str) -> tuple[fs.FileSystem, str]:
    """Return the filesystem of a local path or URI, and the path within it.

    Raises:
        ConfigError: no filesystem is known for the URI.
    """
    if "://" not in uri:
        return fs.LocalFileSystem(), os.path.abspath(os.path.expanduser(uri))
    try:
        system, path = fs.FileSystem.from_uri(uri)
    except (ValueError, OSError) as error:
        system, path = _fsspec(uri, error)
    return system, path.rstrip("/")


def local_path(place: str) -> str | None:
    """Return the path of a place on this machine, given as a path or URI (file://); None if it is elsewhere.

    No server is asked.

    Raises:
        ConfigError: the URI cannot be read.
    """
    scheme, mark, _ = place.partition("://")
    return None if mark and scheme not in _LOCAL else filesystem(place)[1]


def _fsspec(uri: str, reason: Exception) -> tuple[fs.FileSystem, str]:
    try:
        import fsspec

        handler, path = fsspec.url_to_fs(uri)
    except (ImportError, ValueError) as error:
        place = str(Folder(uri))
        # Only one of them knows this kind of place. pyarrow repeats the URI, which may hold a key.
        said = "; ".join(one_line(str(each).replace(uri, place)) for each in (reason, error))
        raise ConfigError(f"'{place}' is not a place known here: {said}") from None
    return fs.PyFileSystem(fs.FSSpecHandler(handler)), str(path)
