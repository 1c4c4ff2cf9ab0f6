"""The cycle store of a sweep: results on a local disk or an object store."""

import hashlib
import os
import shutil
import uuid
from functools import partial
from pathlib import Path
from typing import Any

from pyarrow import fs

from dmsae_ray.distill import DirectoryCycleStore, TrainedCycle
from dmsae_ray.files import Folder, cache_folder, filesystem, patiently

DONE = "outcome.json"
"""The file of a result that is copied last; a result without it is not complete."""


class SharedCycleStore(DirectoryCycleStore):
    """Finished cycles in a folder or at a URI.

    Args:
        place: The folder or URI; cycles of a URI are also kept in this machine's cache.
        about: What to note with each SAE, see `distill.DirectoryCycleStore`.
    """

    def __init__(self, place: str, about: dict[str, Any] | None = None) -> None:
        self._shared = Folder(place)
        local = self._shared.local
        self._remote = local is None
        cache = cache_folder() / "cycles" / hashlib.sha256(place.encode()).hexdigest()[:16]
        super().__init__(cache if local is None else local, about)

    def load(self, key: str) -> TrainedCycle | None:
        """Return the cycle of `key`, or None if it was never finished.

        Raises:
            DataError: Its files are damaged.
        """
        if self._remote and not self.folder(key).is_dir() and (self._shared / key).size(DONE) is not None:
            self._download(key)
        return super().load(key)

    def save(self, key: str, cycle: TrainedCycle) -> None:
        """Save `cycle`; afterwards the store holds either all of it or nothing."""
        super().save(key, cycle)
        if self._remote:
            self._upload(key)

    def _download(self, key: str) -> None:
        system, path = filesystem((self._shared / key).uri)
        aside = self.root / f".{key[:16]}-{uuid.uuid4().hex}"
        aside.mkdir(parents=True)
        here = fs.LocalFileSystem()
        try:
            patiently(
                lambda: fs.copy_files(path, str(aside), source_filesystem=system, destination_filesystem=here),
                str(self._shared / key),
            )
            if not self.folder(key).is_dir():
                os.rename(aside, self.folder(key))
        finally:
            shutil.rmtree(aside, ignore_errors=True)

    def _upload(self, key: str) -> None:
        here, local = self.folder(key), fs.LocalFileSystem()
        system, path = filesystem((self._shared / key).uri)
        files = sorted((f for f in Path(here).rglob("*") if f.is_file()), key=lambda f: f.name == DONE)
        for file in files:
            copy = partial(
                fs.copy_files,
                str(file),
                f"{path}/{file.relative_to(here).as_posix()}",
                source_filesystem=local,
                destination_filesystem=system,
            )
            patiently(copy, str(self._shared / key))
