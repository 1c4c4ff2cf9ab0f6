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
        try:
            info = system.get_file_info(f"{path}/{name}")
        except OSError as error:
            raise DataError(f"{self / name} cannot be looked at: {one_line(error)}") from error
        return int(info.size) if info.type == fs.FileType.File else None

    def entries(self, *, recursive: bool = False) -> list[fs.FileInfo]:
        """Files and folders in the folder; none if it does not exist."""
        system, path = filesystem(self.uri)
        try:
            return list(system.get_file_info(fs.FileSelector(path, allow_not_found=True, recursive=recursive)))
        except OSError as error:
            raise DataError(f"{self} cannot be listed: {one_line(error)}") from error

    def sizes(self) -> dict[str, int]:
        """Files of the folder, by name, with their sizes in bytes; none if the folder does not exist."""
        found = sorted(self.entries(), key=lambda info: str(info.path))
        return {info.base_name: int(info.size) for info in found if info.is_file}

    def write(self, name: str, pieces: Iterable[Buffer]) -> None:
        """Write a file so that it appears whole or not at all; an existing file is replaced.

        Locally a temporary file is moved over the name, and what killed writers of it left is removed; an object store
        shows an object only when it is closed.

        Raises:
            ConfigError: the place cannot be written.
        """
        system, path = filesystem(self.uri)
        try:
            if isinstance(system, fs.LocalFileSystem):
                _write_local(Path(path), name, pieces)
                sweep_temporaries(self, name)
            else:
                with system.open_output_stream(f"{path}/{name}") as stream:
                    for piece in pieces:
                        stream.write(piece)
        except OSError as error:
            raise ConfigError(f"output: {self / name} cannot be written: {one_line(error)}") from error

    def delete(self, name: str) -> None:
        """Remove a file if it is there."""
        system, path = filesystem(self.uri)
        try:
            with suppress(FileNotFoundError):
                system.delete_file(f"{path}/{name}")
        except OSError as error:
            raise DataError(f"{self / name} cannot be deleted: {one_line(error)}") from error

    def remove(self) -> None:
        """Remove the folder with all that is in it, if it is there."""
        system, path = filesystem(self.uri)
        try:
            with suppress(FileNotFoundError):
                system.delete_dir(path)
        except OSError as error:
            raise DataError(f"{self} cannot be removed: {one_line(error)}") from error

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

    Hidden files (a component that starts with '.' or '_') are left out, and other names of a file given already.
    """
    system, path = filesystem(uri)
    info = system.get_file_info(path)
    if info.type == fs.FileType.File:
        return [path]
    local = isinstance(system, fs.LocalFileSystem) and info.type == fs.FileType.Directory
    return sorted(_local(path, suffixes) if local else _visible(system, path, suffixes))


def _local(path: str, suffixes: tuple[str, ...]) -> Iterable[str]:
    """Visible files of a local folder, by the first name of each; links may go round in a circle."""

    def refuse(error: OSError) -> None:
        raise error

    entered: set[str] = set()
    found: dict[str, str] = {}
    for folder, folders, names in os.walk(path, onerror=refuse, followlinks=True):
        real = os.path.realpath(folder)
        folders[:] = [] if real in entered else sorted(name for name in folders if name[0] not in "._")
        if real in entered:
            continue
        entered.add(real)
        for name in sorted(names):
            file = os.path.join(folder, name)
            if name[0] not in "._" and name.endswith(suffixes) and os.path.isfile(file):
                found.setdefault(os.path.realpath(file) if os.path.islink(file) else os.path.join(real, name), file)
    return found.values()


def _visible(system: fs.FileSystem, path: str, suffixes: tuple[str, ...]) -> Iterator[str]:
    for info in system.get_file_info(fs.FileSelector(path, allow_not_found=True, recursive=True)):
        parts = info.path[len(path) :].strip("/").split("/")
        if info.type == fs.FileType.File and info.path.endswith(suffixes) and not any(p[0] in "._" for p in parts if p):
            yield info.path
