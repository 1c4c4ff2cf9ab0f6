"""Files of a folder on this machine, for libraries that read nothing but paths."""

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from dmsae_ray.errors import DataError
from dmsae_ray.files.folder import Folder


@contextmanager
def on_this_machine(folder: Folder, names: Sequence[str]) -> Iterator[Path]:
    """Yield a folder on this machine that has these files: the folder itself, or copies for a while.

    Raises:
        DataError: A file of a folder that is elsewhere is missing or cannot be read.
    """
    if folder.local is not None:
        yield folder.local
        return
    with tempfile.TemporaryDirectory(prefix="dmsae-") as scratch:
        for name in names:
            with open(Path(scratch) / name, "wb") as file:
                if not folder.copy_to(name, file):
                    raise DataError(f"{folder / name}: no such file")
        yield Path(scratch)
