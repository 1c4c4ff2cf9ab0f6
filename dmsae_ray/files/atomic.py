"""Local files that appear whole or not at all."""

import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def replacing(path: Path, *, durable: bool = False) -> Iterator[Path]:
    """Yield a temporary path, and move it to `path` when the block ends without an error.

    If the block raises, the temporary file is removed and `path` stays as it was.

    Args:
        path: the file to write. Its folder must exist.
        durable: wait until the content is on the disk before the file appears, so that a power failure leaves no empty
            file.

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
            # Another writer of the same file was faster, and removed our temporary file as one of a dead writer.
            if not path.exists():
                raise
    finally:
        temporary.unlink(missing_ok=True)


def remove_temporaries(path: Path) -> None:
    """Remove the temporary files that killed writers of `path` left beside it."""
    for leftover in path.parent.glob(f".{path.name}.*.tmp"):
        leftover.unlink(missing_ok=True)
