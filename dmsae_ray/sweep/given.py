"""The SAEs and the core that a sweep is given: found here, on the Hub or in the output, and copied to the output.

The controller finds them once, before Ray starts; workers, on whatever machine, read the copies. A sweep that goes on
reads what it began with, whatever has become of a branch on the Hub since.
"""

import hashlib
import json
import logging
import mmap
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from dmsae_ray.config import Experiment
from dmsae_ray.distill import core_file, fetch_core
from dmsae_ray.errors import DataError
from dmsae_ray.files import (
    Folder,
    HubPlace,
    encode_record,
    fetch_from_hub,
    file_sha256,
    hub_place,
    on_this_machine,
)
from dmsae_ray.results import COMMIT, folders_of
from dmsae_ray.sae import SAE_FILES

log = logging.getLogger(__name__)

CORE = "transfer.core"
_MARK = "given.json"
"""Written last into the folder of a copy: where its files come from."""


@dataclass(frozen=True)
class Given:
    """Files that a setting names.

    Attributes:
        place: What the setting says.
        folder: The folder that holds them.
        names: Their names; none if they are not there.
        commit: The commit that they are of, if they come from the Hub.
        sha256: Their hash, where they are a copy in the output.
    """

    place: str
    folder: Folder
    names: tuple[str, ...]
    commit: str | None = None
    sha256: str | None = None


def given_places(experiment: Experiment) -> dict[str, str]:
    """Return the places of the SAEs and the core that the trials of an experiment read, by setting."""
    transfer, asked = experiment.transfer, {experiment.distill.initial_setting(k) for k in experiment.ks}
    saes = {field: place for field, place in experiment.distill.initial_places.items() if field in asked}
    needed = transfer is not None and transfer.core is not None and set(transfer.arms) != {"baseline"}
    core = {CORE: transfer.core} if transfer is not None and transfer.core is not None and needed else {}
    return {**saes, **core}


def find_given(experiment: Experiment, begun: Mapping[str, str]) -> dict[str, Given]:
    """Find what an experiment is given; what is on the Hub is downloaded, unless the output has a copy.

    Args:
        experiment: The experiment.
        begun: What was noted of its inputs when its sweep began, see `results.begun_inputs`.

    Raises:
        ConfigError: The Hub has no such files for this login.
        DataError: The Hub, or the output, cannot be reached or read.
        TransientError: The Hub does not answer.
    """
    copies = folders_of(experiment).given
    return {field: _found(field, place, begun, copies) for field, place in given_places(experiment).items()}


def _found(field: str, place: str, begun: Mapping[str, str], copies: Folder) -> Given:
    on_hub, sha256, commit = hub_place(place), begun.get(field), begun.get(f"{field}{COMMIT}")
    if sha256 is not None and (on_hub is not None or not Path(place).expanduser().exists()):
        copy = copies / sha256
        if copy.size(_MARK) is not None:
            return Given(place, copy, _names(copy), commit, sha256)
    if on_hub is not None:
        return _downloaded(field, place, on_hub, commit)
    if field == CORE:
        file = core_file(place)
        return Given(place, Folder(str(file.parent)), (file.name,) if file.is_file() else ())
    folder = Path(place).expanduser()
    kind = next((files for files in SAE_FILES if (folder / files[0]).is_file()), ())
    return Given(place, Folder(str(folder)), tuple(name for name in kind if (folder / name).is_file()))


def _names(copy: Folder) -> tuple[str, ...]:
    return tuple(name for name in copy.sizes() if name != _MARK)


def _downloaded(field: str, place: str, on_hub: HubPlace, commit: str | None) -> Given:
    wanted, what = on_hub if commit is None else replace(on_hub, revision=commit), f"{field} is '{place}'"
    files = fetch_core(wanted, what) if field == CORE else fetch_from_hub(wanted, SAE_FILES, what)
    if on_hub.revision != files.commit and commit is None:
        pinned = replace(on_hub, revision=files.commit)
        log.warning("%s, which may change on the Hub; pin what is there now: '%s'", what, pinned)
    return Given(place, Folder(str(files.folder)), files.names, files.commit)


def hash_given(given: Mapping[str, Given]) -> dict[str, str]:
    """Return the hash of the files of each setting.

    Of a local folder all files count, as they always did; of the Hub those that are read.

    Raises:
        OSError: A file cannot be read.
    """
    return {field: found.sha256 or _hash(field, found) for field, found in given.items()}


def _hash(field: str, found: Given) -> str:
    folder = Path(found.folder.uri)
    if field == CORE:
        return file_sha256(folder / found.names[0])
    every = [path.name for path in folder.iterdir() if path.is_file()] if found.commit is None else found.names
    hashes = json.dumps([[name, file_sha256(folder / name)] for name in sorted(every)])
    return hashlib.sha256(hashes.encode()).hexdigest()


def keep_given(given: Mapping[str, Given], hashes: Mapping[str, str], copies: Folder) -> dict[str, str]:
    """Copy the files to the output, where they are not there yet; return the folder of each setting's copy.

    Args:
        given: The files by setting.
        hashes: Their hashes by setting.
        copies: The folder of all copies.

    Raises:
        ConfigError: The output cannot be written.
        DataError: The output cannot be read.
    """
    for field, found in given.items():
        target = copies / hashes[field]
        if found.sha256 is None and target.size(_MARK) is None:
            for name in found.names:
                _copy(Path(found.folder.uri) / name, target, name)
            target.write(_MARK, [encode_record({"place": found.place, "commit": found.commit})])
    return {field: (copies / hashes[field]).uri for field in given}


def _copy(source: Path, target: Folder, name: str) -> None:
    with open(source, "rb") as file:
        if source.stat().st_size == 0:
            target.write(name, [])
            return
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content, memoryview(content) as view:
            target.write(name, [view])


@contextmanager
def given_here(given: Mapping[str, Given]) -> Iterator[dict[str, Path]]:
    """Give the paths of the files on this machine, for a while: the folder of an SAE, the file of a core.

    What a setting names and is not there is left out.

    Raises:
        DataError: A copy in the output is gone or cannot be read.
    """
    with ExitStack() as stack:
        here = {
            field: stack.enter_context(on_this_machine(found.folder, found.names))
            for field, found in given.items()
            if found.names
        }
        yield {field: path / given[field].names[0] if field == CORE else path for field, path in here.items()}


@contextmanager
def copy_here(folder: str | None, field: str) -> Iterator[dict[str, Path]]:
    """Give, in a worker, what `given_here` gives of one setting, from the copy in the output.

    Args:
        folder: Folder of the copy, from `keep_given`; None if nothing is given, and then the mapping is empty.
        field: The setting.

    Raises:
        DataError: The copy is gone or cannot be read.
    """
    if folder is None:
        yield {}
        return
    copy = Folder(folder)
    names = _names(copy)
    if not names:
        raise DataError(f"{field}: its copy '{copy}' is gone; the same command makes it again")
    with given_here({field: Given("", copy, names)}) as here:
        yield here
