"""Local files that appear whole or not at all."""

import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def replacing(path: Path, *, durable: bool = False) -> Iterator[Path]:
    """Give a temporary path; what was written there takes the place of `path` when the block ends well.

    If the block raises, the temporary file is removed and `path` stays as it was.

    Args:
        path: the file that is to appear. Its folder must exist.
        durable: wait until the content is on the disk before the file appears, so that a machine which loses its power
            leaves no empty file.

    Raises:
        OSError: the file cannot be written.
    """
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        yield temporary
        try:
            if durable:
                with open(temporary, "rb") as stream:
                    os.fsync(stream.fileno())
            os.replace(temporary, path)
        except FileNotFoundError:
            # Another writer of the same file was first, and took our file for one that a dead writer left behind.
            if not path.exists():
                raise
    finally:
        temporary.unlink(missing_ok=True)


def remove_temporaries(path: Path) -> None:
    """Remove what killed writers of `path` left beside it."""
    for leftover in path.parent.glob(f".{path.name}.*.tmp"):
        leftover.unlink(missing_ok=True)
