"""The files of a folder in one fixed order, on any filesystem."""

import os
from collections.abc import Iterable, Iterator

from pyarrow import fs

from dmsae_ray.files.folder import filesystem


def list_files(uri: str, suffixes: tuple[str, ...]) -> list[str]:
    """List the files with these suffixes in a folder and its subfolders, sorted; or the one file that `uri` names.

    Hidden files (a component of the path starts with '.' or '_') are left out. A file with several names is listed
    once, by its first name.

    Args:
        uri: local path or URI of a folder or a file.
        suffixes: allowed ends of a file name; not applied if `uri` is a file.

    Returns:
        Paths within the filesystem of `uri`.

    Raises:
        OSError: the folder cannot be listed.
    """
    system, path = filesystem(uri)
    info = system.get_file_info(path)
    if info.type == fs.FileType.File:
        return [path]
    local = isinstance(system, fs.LocalFileSystem) and info.type == fs.FileType.Directory
    return sorted(_local(path, suffixes) if local else _remote(system, path, suffixes))


def _local(path: str, suffixes: tuple[str, ...]) -> Iterable[str]:
    """Return the visible files of a local folder, each by its first name; symbolic links may form a cycle."""

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


def _remote(system: fs.FileSystem, path: str, suffixes: tuple[str, ...]) -> Iterator[str]:
    for info in system.get_file_info(fs.FileSelector(path, allow_not_found=True, recursive=True)):
        parts = info.path[len(path) :].strip("/").split("/")
        if info.type == fs.FileType.File and info.path.endswith(suffixes) and not any(p[0] in "._" for p in parts if p):
            yield info.path
