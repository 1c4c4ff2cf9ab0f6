"""Files on any pyarrow filesystem, written whole or not at all."""

import hashlib
import mmap
import os
import shutil
import uuid
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import IO

import numpy as np
from pyarrow import fs

from dmsae_ray.errors import ConfigError, DataError

Buffer = bytes | bytearray | memoryview
_BLOCK = 1 << 16
_PIECE = 16 << 20


@dataclass(frozen=True)
class Folder:
    """A folder, by local path or URI (s3://, gs://, file://, hf://). Small and picklable."""

    uri: str

    def __truediv__(self, name: str) -> "Folder":
        # Options of a URI (s3://bucket/a?region=b) belong behind the path.
        path, mark, options = self.uri.partition("?") if "://" in self.uri else (self.uri, "", "")
        return Folder(f"{path.rstrip('/')}/{name}{mark}{options}")

    def __str__(self) -> str:
        """The place, without the options and credentials that a URI may carry."""
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
        """Bytes of a file, None if it does not exist."""
        system, path = filesystem(self.uri)
        try:
            with system.open_input_stream(f"{path}/{name}") as stream:
                return bytes(stream.read())
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise DataError(f"{self / name} cannot be read: {one_line(error)}") from error

    def copy_to(self, name: str, target: IO[bytes]) -> bool:
        """Append a file's bytes to an open one, piece by piece; False if it does not exist."""
        system, path = filesystem(self.uri)
        try:
            with system.open_input_stream(f"{path}/{name}") as stream:
                while piece := stream.read(_PIECE):
                    target.write(piece)
        except FileNotFoundError:
            return False
        except OSError as error:
            raise DataError(f"{self / name} cannot be read: {one_line(error)}") from error
        return True

    def size(self, name: str) -> int | None:
        """Size of a file in bytes, None if it does not exist."""
        system, path = filesystem(self.uri)
        info = system.get_file_info(f"{path}/{name}")
        return int(info.size) if info.type == fs.FileType.File else None

    def sizes(self) -> dict[str, int]:
        """Files of the folder, by name, with their sizes in bytes; none if the folder does not exist."""
        system, path = filesystem(self.uri)
        found = system.get_file_info(fs.FileSelector(path, allow_not_found=True))
        return {info.base_name: int(info.size) for info in sorted(found, key=lambda i: str(i.path)) if info.is_file}

    def write(self, name: str, pieces: Iterable[Buffer]) -> None:
        """Write a file so that it appears whole or not at all; an existing file is replaced.

        Locally a temporary file is moved over the name; an object store shows an object only when it is closed.

        Raises:
            ConfigError: the place cannot be written.
        """
        system, path = filesystem(self.uri)
        try:
            if isinstance(system, fs.LocalFileSystem):
                _write_local(Path(path), name, pieces)
            else:
                with system.open_output_stream(f"{path}/{name}") as stream:
                    for piece in pieces:
                        stream.write(piece)
        except OSError as error:
            raise ConfigError(f"output: {self / name} cannot be written: {one_line(error)}") from error

    def delete(self, name: str) -> None:
        """Remove a file if it is there."""
        system, path = filesystem(self.uri)
        with suppress(FileNotFoundError):
            system.delete_file(f"{path}/{name}")

    def free_bytes(self) -> int | None:
        """Free space where a local folder is or will be; None on an object store."""
        place = self.local
        if place is None:
            return None
        while not place.exists() and place != place.parent:
            place = place.parent
        return shutil.disk_usage(place).free


def checksum(content: Buffer | mmap.mmap) -> str:
    """Checksum [64 hex digits] of a file's bytes: SHA-256 over the sums of its 64 KiB blocks, its tail and its length.

    A block's sum is that of its little-endian 64-bit words. It finds torn, truncated, swapped and flipped data at the
    speed of memory, 5 to 10 times that of SHA-256 over the bytes themselves; it is no defence against forgery.
    """
    data = np.frombuffer(content, np.uint8)
    whole = len(data) // _BLOCK * _BLOCK
    sums = data[:whole].view("<u8").reshape(-1, _BLOCK // 8).sum(1, dtype=np.uint64)
    digest = hashlib.sha256(sums.astype("<u8").tobytes())
    digest.update(data[whole:].tobytes())
    digest.update(str(len(data)).encode())
    return digest.hexdigest()


@lru_cache(maxsize=64)
def filesystem(uri: str) -> tuple[fs.FileSystem, str]:
    """The filesystem of a local path or URI, and the path within it."""
    if "://" not in uri:
        return fs.LocalFileSystem(), os.path.abspath(os.path.expanduser(uri))
    try:
        system, path = fs.FileSystem.from_uri(uri)
    except (ValueError, OSError) as error:
        system, path = _fsspec(uri, error)
    return system, path.rstrip("/")


def _fsspec(uri: str, reason: Exception) -> tuple[fs.FileSystem, str]:
    try:
        import fsspec

        handler, path = fsspec.url_to_fs(uri)
    except (ImportError, ValueError) as error:
        raise ConfigError(f"'{Folder(uri)}' is not a place known here: {one_line(reason or error)}") from None
    return fs.PyFileSystem(fs.FSSpecHandler(handler)), str(path)


def _write_local(folder: Path, name: str, pieces: Iterable[Buffer]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    temporary = folder / f".{name}.{uuid.uuid4().hex}.tmp"
    try:
        with open(temporary, "wb") as stream:
            for piece in pieces:
                stream.write(piece)
            stream.flush()
            os.fsync(stream.fileno())
        try:
            os.replace(temporary, folder / name)
        except FileNotFoundError:
            # Another harvest that wrote the same file first has swept ours away; the two are identical.
            if not (folder / name).exists():
                raise
    finally:
        temporary.unlink(missing_ok=True)


def sweep_temporaries(folder: Folder, name: str) -> None:
    """Remove what killed writers of the file `name` left behind."""
    if folder.local is not None:
        for leftover in folder.local.glob(f".{name}.*.tmp"):
            leftover.unlink(missing_ok=True)


def one_line(error: object) -> str:
    """An exception's message in one line of at most 300 characters."""
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    text = " ".join(str(text).split())
    return text if len(text) <= 300 else text[:297] + "..."


def list_files(uri: str, suffixes: tuple[str, ...]) -> list[str]:
    """Paths (within the filesystem of `uri`) of a file, or of a folder's files with these suffixes, sorted.

    Hidden files (a component that starts with '.' or '_') are left out.
    """
    system, path = filesystem(uri)
    info = system.get_file_info(path)
    if info.type == fs.FileType.File:
        return [path]
    return sorted(_visible(system, path, suffixes))


def _visible(system: fs.FileSystem, path: str, suffixes: tuple[str, ...]) -> Iterator[str]:
    for info in system.get_file_info(fs.FileSelector(path, allow_not_found=True, recursive=True)):
        parts = info.path[len(path) :].strip("/").split("/")
        if info.type == fs.FileType.File and info.path.endswith(suffixes) and not any(p[0] in "._" for p in parts if p):
            yield info.path
