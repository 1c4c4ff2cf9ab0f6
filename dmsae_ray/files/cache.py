"""The user's cache on this machine: its folder, and the hashes of large files."""

import hashlib
import json
import os
import time
from contextlib import suppress
from pathlib import Path

from dmsae_ray.files.atomic import replacing

_REMEMBERED_BYTES = 16 << 20  # a smaller file is read each time, which costs almost nothing
_SETTLED_SECONDS = 2.0  # a file that changed more recently may change again without a new time stamp


def cache_folder() -> Path:
    """Return `$DMSAE_CACHE`, else the folder `dmsae` in the user's cache folder; it may not exist yet."""
    if chosen := os.environ.get("DMSAE_CACHE"):
        return Path(chosen).expanduser()
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "dmsae"


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of a file as 64 hex digits.

    The hash of a file of 16 MiB or more is kept in the cache, by path, size and time stamps.

    Raises:
        OSError: the file cannot be read.
    """
    stat = path.stat()
    if stat.st_size < _REMEMBERED_BYTES:
        return _sha256(path)
    key = hashlib.sha256(str(path.resolve()).encode()).hexdigest()
    known = cache_folder() / "hashes" / f"{key}.json"
    mark = [stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns]
    with suppress(OSError, ValueError, TypeError, KeyError):
        kept = json.loads(known.read_text(encoding="utf-8"))
        if kept["file"] == mark:
            return str(kept["sha256"])
    found = _sha256(path)
    if time.time() - max(stat.st_mtime, stat.st_ctime) > _SETTLED_SECONDS:
        with suppress(OSError):  # a cache that cannot be written only costs time
            known.parent.mkdir(parents=True, exist_ok=True)
            with replacing(known) as temporary:
                temporary.write_text(json.dumps({"file": mark, "sha256": found}), encoding="utf-8")
    return found


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
