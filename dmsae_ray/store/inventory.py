"""The stores of an output folder: what each holds and how complete it is; checking and removing stores."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import Any

from pyarrow import fs

from dmsae_ray.config import ActivationSettings
from dmsae_ray.errors import ConfigError, DataError
from dmsae_ray.files import Folder, decode_record, filesystem
from dmsae_ray.store.commit import Commit, decode_commit
from dmsae_ray.store.layout import (
    ACTIVATIONS,
    DRAFT,
    LAYOUT,
    MANIFEST,
    PARTIAL,
    REQUEST,
    STREAMED,
    TOKENS,
    Layout,
    Split,
    decode_layout,
    shard_name,
)
from dmsae_ray.store.manifest import Commits, check_manifest, read_manifest, read_request
from dmsae_ray.store.reader import Store, check_finite_shard
from dmsae_ray.store.timing import TIMING, StoreTiming
from dmsae_ray.store.token_shards import read_layout, read_tokens
from dmsae_ray.store.usage import USERS, active_users
from dmsae_ray.store.writer import has_writer

_PARTS = {REQUEST, MANIFEST, PARTIAL, TOKENS, ACTIVATIONS, STREAMED}
"""A folder that holds one of these is a store."""
_SHORTEST = 6  # letters of a key that a person must give at least


@dataclass(frozen=True)
class StoreSummary:
    """What is known of a store without reading its data.

    Attributes:
        key: key of the store.
        model: requested model; '?' if the request cannot be read, as in the next three.
        layer: requested layer.
        corpus: requested corpus.
        dtype: requested dtype of stored activations.
        tokens: tokens of all splits.
        rows: training activations; None while the store is being written.
        bytes: size of all its files.
        state: 'complete', 'for streaming', 'damaged', or how far the harvest is.
        written: time of the last write to a file of the store, except to a reader's mark.
        used: time when a sweep last wrote its mark: while it reads the store, and at its end.
    """

    key: str
    model: str
    layer: str
    corpus: str
    dtype: str
    tokens: int
    rows: int | None
    bytes: int
    state: str
    written: datetime | None
    used: datetime | None


@dataclass(frozen=True)
class CheckedFile:
    """A file that was read and compared with its checksum.

    Attributes:
        file: its path or URI.
        bytes: its size; 0 if it is missing.
        error: what is wrong with it; None if nothing is.
    """

    file: str
    bytes: int
    error: str | None


def list_stores(root: Folder) -> list[StoreSummary]:
    """Return a summary of every store in the folder of stores, sorted by key."""
    return [_describe(root / key, key) for key in store_keys(root)]


def store_keys(root: Folder) -> list[str]:
    """Return the keys of the stores, sorted; a folder without any file of a store is not one."""
    folders = [str(info.base_name) for info in root.entries() if info.type == fs.FileType.Directory]
    return sorted(key for key in folders if any(info.base_name in _PARTS for info in (root / key).entries()))


def find_key(root: Folder, start: str) -> str:
    """Return the one key that begins with `start`.

    Raises:
        ConfigError: no key or several keys begin so, or `start` is too short.
    """
    if len(start) < _SHORTEST:
        raise ConfigError(f"'{start}' is too short for a store's key; give the first {_SHORTEST} letters or more")
    known = store_keys(root)
    found = [key for key in known if key.startswith(start)]
    if len(found) != 1:
        what = "several stores" if found else "no store"
        raise ConfigError(f"'{start}' names {what} of {root}; there are {', '.join(found or known) or 'none'}")
    return found[0]


def check_store(store: Folder) -> Iterator[CheckedFile]:
    """Read every file that exists or should: shards against their checksums, the manifest against all other files.

    Yields:
        One result per file.

    Raises:
        DataError: the store cannot be listed.
    """
    tokens, activations = store / TOKENS, store / ACTIVATIONS
    sizes, token_sizes, shard_sizes = store.sizes(), tokens.sizes(), activations.sizes()
    manifests = [name for name in (MANIFEST, PARTIAL) if name in sizes]
    yield _checked(store / REQUEST, sizes.get(REQUEST), partial(read_request, store))
    if LAYOUT not in token_sizes and not manifests:
        return  # incomplete tokens are checked by the harvest that continues them
    found = _checked(tokens / LAYOUT, token_sizes.get(LAYOUT), partial(_layout, store))
    yield found
    if found.error is not None:
        return
    layout, commits, asked = _layout(store), Commits(), set[tuple[Split, int]]()
    reader = Store(store, "", ActivationSettings())

    def read(split: Split, shard: int) -> None:
        name = shard_name(split, shard)
        asked.add((split, shard))
        commits[split, shard] = _commit(activations, f"{name}.json")
        tensors = reader.read_committed(split, shard, commits[split, shard])
        check_finite_shard(tensors, activations / f"{name}.safetensors")

    for split, shard in layout.all_shards():
        name = shard_name(split, shard)
        file = f"{name}.safetensors"
        yield _checked(tokens / file, token_sizes.get(file), partial(read_tokens, store, layout, name))
        if MANIFEST in manifests or f"{name}.json" in shard_sizes:
            yield _checked(activations / file, shard_sizes.get(file), partial(read, split, shard))
    for name in manifests:
        # A commit that is damaged was named above; that the manifest does not agree with it would blame the wrong file.
        compare = partial(check_manifest, store, name, layout, commits)
        yield _checked(
            store / name, sizes.get(name), partial(read_manifest, store, name) if asked - set(commits) else compare
        )


def _layout(store: Folder) -> Layout:
    layout = read_layout(store)
    if layout is None:
        raise DataError(f"{store / TOKENS / LAYOUT} is missing; harvest again to have it made")
    return layout


def _commit(activations: Folder, file: str) -> Commit:
    content = activations.read(file)
    if content is None:
        raise DataError(f"{activations / file} is missing; harvest again to have the shard made")
    return decode_commit(content, activations / file)


def remove_store(store: Folder, timing: StoreTiming = TIMING) -> None:
    """Delete a store.

    Raises:
        ConfigError: a harvest writes it, or a sweep reads it.
    """
    if has_writer(store, timing):
        raise ConfigError(f"store {store} is being written by a harvest; stop that first")
    busy = active_users(store, timing)
    if busy:
        raise ConfigError(f"store {store} is being read by sweep {', '.join(busy)}; stop that first")
    for name in (MANIFEST, PARTIAL):
        store.delete(name)  # first, so that the rest of an interrupted deletion does not look like a whole store
    store.remove()


def _checked(where: Folder, size: int | None, read: Callable[[], object]) -> CheckedFile:
    try:
        read()
    except DataError as error:
        return CheckedFile(str(where), size or 0, str(error))
    return CheckedFile(str(where), size or 0, None)


def _describe(store: Folder, key: str) -> StoreSummary:
    try:
        tree = decode_record(store.read(REQUEST) or b"", REQUEST)
    except DataError:
        tree = {}
    files = [info for info in store.entries(recursive=True) if info.is_file]
    _, path = filesystem(store.uri)
    marks = [i.mtime for i in files if i.path.startswith(f"{path}/{USERS}/")]
    times = [i.mtime for i in files if not i.path.startswith(f"{path}/{USERS}/")]
    state, rows = _state(store)
    layer = _get(tree, "model", "layer")
    tokens = [_get(tree, "corpus", name) for name in ("tokens", "attribution_tokens", "eval_tokens")]
    return StoreSummary(
        key=key,
        model=str(_get(tree, "read_from", "model") or _get(tree, "model", "name") or "?"),
        layer="?" if layer is None else str(layer),
        corpus=str(_get(tree, "read_from", "corpus") or _get(tree, "corpus", "path") or "?"),
        dtype=str(_get(tree, "activations", "dtype") or "?"),
        tokens=sum(n for n in tokens if isinstance(n, int)),
        rows=rows,
        bytes=sum(i.size for i in files),
        state=state,
        written=max(times, default=None),
        used=max(marks, default=None),
    )


def _state(store: Folder) -> tuple[str, int | None]:
    try:
        for name, state in ((MANIFEST, "complete"), (PARTIAL, "for streaming")):
            content = store.read(name)
            if content is not None:
                return state, int(decode_record(content, name)["rows"]["train"])
        content = (store / TOKENS).read(LAYOUT)
        if content is not None:
            return f"{_share(decode_layout(content, LAYOUT), store):.0%} of the activations", None
        draft = (store / TOKENS).read(DRAFT)
        count = len(decode_record(draft, DRAFT)["token_checksums"]) if draft is not None else 0
        return f"{count} shards of tokens", None
    except (DataError, KeyError, TypeError, ValueError):
        return "damaged", None


def _share(layout: Layout, store: Folder) -> float:
    names = (store / ACTIVATIONS).sizes()
    there = [layout.shard_tokens(*item) for item in layout.all_shards() if f"{shard_name(*item)}.json" in names]
    return sum(there) / sum(layout.shard_tokens(*item) for item in layout.all_shards())


def _get(tree: dict[str, Any], section: str, name: str) -> Any:
    found = tree.get(section)
    return found.get(name) if isinstance(found, dict) else None
