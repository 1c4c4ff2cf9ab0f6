"""The cycle store of a sweep: finished cycles on a disk that all machines share, or in an object store."""

import tempfile
from functools import partial
from typing import Any

from pyarrow import fs
from torch import Tensor

from dmsae_ray.distill import (
    CycleStore,
    DirectoryCycleStore,
    TrainedCycle,
    scores_file,
    scores_from_bytes,
    scores_to_bytes,
)
from dmsae_ray.errors import DataError
from dmsae_ray.files import Folder, filesystem, retry_outages

DONE = "outcome.json"
"""The file of a result that is copied last; a result without it is not complete."""


def cycle_store(place: str, about: dict[str, Any] | None = None) -> CycleStore:
    """Return the store of the cycles at a path or URI.

    Args:
        place: The path or URI.
        about: What to note with each SAE, see `distill.DirectoryCycleStore`.
    """
    local = Folder(place).local
    return BucketCycleStore(Folder(place), about) if local is None else DirectoryCycleStore(local, about)


class BucketCycleStore:
    """Finished cycles in an object store. A machine keeps a copy of one only while it is read or written.

    Args:
        folder: The folder of the cycles.
        about: What to note with each SAE, see `distill.DirectoryCycleStore`.
    """

    def __init__(self, folder: Folder, about: dict[str, Any] | None = None) -> None:
        self._folder, self._about = folder, about

    def load(self, key: str) -> TrainedCycle | None:
        """Return the cycle of `key`, or None if it was never finished.

        Raises:
            DataError: Its files are damaged.
        """
        if (self._folder / key).size(DONE) is None:
            return None
        system, path = filesystem((self._folder / key).uri)
        with tempfile.TemporaryDirectory(prefix="dmsae-cycle-") as scratch:
            here = DirectoryCycleStore(scratch)
            here.folder(key).mkdir()
            copy = partial(
                fs.copy_files,
                path,
                str(here.folder(key)),
                source_filesystem=system,
                destination_filesystem=fs.LocalFileSystem(),
            )
            retry_outages(copy, str(self._folder / key))
            try:
                return here.load(key)
            except DataError as error:
                raise DataError(str(error).replace(str(here.folder(key)), str(self._folder / key))) from None

    def load_scores(self, key: str, scoring: dict[str, Any]) -> Tensor | None:
        """See `distill.CycleStore`.

        Raises:
            DataError: The file is damaged.
        """
        folder, name = self._folder / key, scores_file(scoring)
        content = folder.read(name)
        return None if content is None else scores_from_bytes(content, folder / name)

    def save_scores(self, key: str, scoring: dict[str, Any], scores: Tensor) -> None:
        """See `distill.CycleStore`."""
        (self._folder / key).write(scores_file(scoring), [scores_to_bytes(scoring, scores)])

    def save(self, key: str, cycle: TrainedCycle) -> None:
        """Save `cycle`; a reader finds it when all of it is there."""
        system, path = filesystem((self._folder / key).uri)
        with tempfile.TemporaryDirectory(prefix="dmsae-cycle-") as scratch:
            here = DirectoryCycleStore(scratch, self._about)
            here.save(key, cycle)
            files = [file for file in here.folder(key).rglob("*") if file.is_file()]
            for file in sorted(files, key=lambda file: file.name == DONE):
                copy = partial(
                    fs.copy_files,
                    str(file),
                    f"{path}/{file.relative_to(here.folder(key)).as_posix()}",
                    source_filesystem=fs.LocalFileSystem(),
                    destination_filesystem=system,
                )
                retry_outages(copy, str(self._folder / key))
