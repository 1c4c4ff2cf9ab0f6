"""The stores of an output folder: what each holds and how whole it is, checked and removed."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from pyarrow import fs

from dmsae_ray.activations.files import Folder, filesystem
from dmsae_ray.activations.heartbeat import other_writer
from dmsae_ray.activations.position import DRAFT
from dmsae_ray.activations.readers import READERS, readers
from dmsae_ray.activations.records import (
    ACTIVATIONS,
    LAYOUT,
    MANIFEST,
    PARTIAL,
    TOKENS,
    Layout,
    decode,
    decode_layout,
    shard_name,
)
from dmsae_ray.activations.store import Store, check_finite
from dmsae_ray.activations.token_files import read_tokens
from dmsae_ray.config import Activations
from dmsae_ray.errors import ConfigError, DataError

REQUEST = "request.json"


@dataclass(frozen=True)
class Stored:
    """What is known of a store without reading its data.

    Attributes:
        key: its address.
        model, layer, corpus, dtype: what it was asked for; '?' where the request cannot be read.
        tokens: tokens of all splits.
        rows: training activations; None while the store is written.
        bytes: of all its files.
        state: 'complete', 'for streaming', or how far it is.
        written: when a file of it was last written, a reader's mark apart.
        used: when a sweep last began to read it, or ended.
    """

    key: str
    model: str
    layer: int
    corpus: str
    dtype: str
    tokens: int
    rows: int | None
    bytes: int
    state: str
    written: datetime | None
    used: datetime | None


@dataclass(frozen=True)
class Checked:
    """A file that was read and compared with its checksum; `error` says what is wrong with it."""

    file: str
    bytes: int
    error: str | None


def list_stores(root: Folder) -> list[Stored]:
    """Every store in the folder of stores, by key."""
    return [_describe(root / key, key) for key in keys(root)]


def keys(root: Folder) -> list[str]:
    """Keys of the stores, sorted."""
    system, path = filesystem(root.uri)
    found = system.get_file_info(fs.FileSelector(path, allow_not_found=True))
    return sorted(info.base_name for info in found if info.type == fs.FileType.Directory)


def find(root: Folder, start: str) -> str:
    """The one key that starts like this.

    Raises:
        ConfigError: there is none, or several.
    """
    known = keys(root)
    found = [key for key in known if key.startswith(start)]
    if len(found) != 1:
        what = "several stores" if found else "no store"
        raise ConfigError(f"'{start}' names {what} of {root}; there are {', '.join(found or known) or 'none'}")
    return found[0]


def check(store: Folder) -> Iterator[Checked]:
    """Read every shard that is there whole or should be, and compare it with its checksum.

    Raises:
        DataError: what says which shards there are cannot be read.
    """
    content = store.read(REQUEST)
    tree = decode(content or b"", store / REQUEST)
    found = (store / TOKENS).read(LAYOUT)
    if found is None:
        return  # tokens that are not all there are checked by whoever goes on with them
    layout = decode_layout(found, store / TOKENS / LAYOUT)
    reader = Store(store, store.uri.rpartition("/")[2], Activations(dtype=_get(tree, "activations", "dtype")))
    sizes = (store / ACTIVATIONS).sizes()
    token_sizes = (store / TOKENS).sizes()
    whole = store.size(MANIFEST) is not None
    for split, shard in layout.all_shards():
        name = shard_name(split, shard)
        file = f"{name}.safetensors"
        yield _checked(store / TOKENS / file, token_sizes.get(file, 0), lambda n=name: read_tokens(store, layout, n))
        if whole or f"{name}.json" in sizes:
            where = store / ACTIVATIONS / file

            def read(split: Any = split, shard: int = shard, where: Folder = where) -> None:
                check_finite(reader.read(split, shard), where)

            yield _checked(where, sizes.get(file, 0), read)


def remove(store: Folder) -> None:
    """Delete a store.

    Raises:
        ConfigError: a harvest writes it, or a sweep reads it.
    """
    if other_writer(store):
        raise ConfigError(f"store {store} is being written by a harvest; stop that first")
    busy = readers(store)
    if busy:
        raise ConfigError(f"store {store} is being read by sweep {', '.join(busy)}; stop that first")
    for name in (MANIFEST, PARTIAL):
        store.delete(name)  # first: what is left of a deletion that is interrupted must not look whole
    system, path = filesystem(store.uri)
    system.delete_dir(path)


def _checked(where: Folder, size: int, read: Any) -> Checked:
    try:
        read()
    except DataError as error:
        return Checked(str(where), size, str(error))
    return Checked(str(where), size, None)


def _describe(store: Folder, key: str) -> Stored:
    try:
        tree = decode(store.read(REQUEST) or b"", REQUEST)
    except DataError:
        tree = {}
    system, path = filesystem(store.uri)
    files = [i for i in system.get_file_info(fs.FileSelector(path, recursive=True)) if i.is_file]
    marks = [i.mtime for i in files if i.path.startswith(f"{path}/{READERS}/")]
    times = [i.mtime for i in files if not i.path.startswith(f"{path}/{READERS}/")]
    state, rows = _state(store)
    tokens = [_get(tree, "corpus", name) for name in ("tokens", "attribution_tokens", "eval_tokens")]
    return Stored(
        key=key,
        model=str(_get(tree, "read_from", "model") or _get(tree, "model", "name") or "?"),
        layer=int(_get(tree, "model", "layer") or 0),
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
                return state, int(decode(content, name)["rows"]["train"])
        content = (store / TOKENS).read(LAYOUT)
        if content is not None:
            return f"{_share(decode_layout(content, LAYOUT), store):.0%} of the activations", None
        draft = (store / TOKENS).read(DRAFT)
        count = len(decode(draft, DRAFT)["token_checksums"]) if draft is not None else 0
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
