"""The manifest of a store: written when all that it lists is written, and compared with the store's other files."""

import logging
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields
from typing import Annotated, Any

from pydantic import Field, TypeAdapter, ValidationError

from dmsae_ray.errors import DataError
from dmsae_ray.files import Folder, decode_record, decode_sealed
from dmsae_ray.store.commit import Commit, decode_commit, norm_factor
from dmsae_ray.store.layout import ACTIVATIONS, MANIFEST, REQUEST, SPLITS, TOKENS, Layout, Split, shard_name

log = logging.getLogger(__name__)

_READS_AT_ONCE = 16
"""Small files read at the same time: there are thousands, and in a bucket each read waits for the network."""

Commits = dict[tuple[Split, int], Commit]


@dataclass(frozen=True)
class Norm:
    """The norm factor for one value of `activations.norm_tokens`; readers with another value compute their own.

    Attributes:
        tokens: that value.
        factor: root mean square norm of the rows.
    """

    tokens: Annotated[int, Field(ge=1)]
    factor: float


@dataclass(frozen=True)
class Manifest:
    """What a store holds.

    Attributes:
        request: what the store was made from (`identity.request_of`).
        layout: how its tokens are cut.
        shards: commits by split, from shard 0 on.
        rows: number of activations, by split.
        bytes: size of all shards of activations.
        token_bytes: size of every token shard, by name.
        norm: the norm factor.
    """

    request: dict[str, Any]
    layout: Layout
    shards: dict[Split, list[Commit]]
    rows: dict[Split, int]
    bytes: int
    token_bytes: dict[str, int]
    norm: Norm

    @property
    def listed(self) -> list[tuple[Split, int]]:
        """Every (split, shard) in the manifest, in the layout's order."""
        return [(split, shard) for split in SPLITS for shard in range(len(self.shards.get(split, ())))]


@dataclass(frozen=True)
class _Shards:
    """The part of a manifest that readers need."""

    shards: dict[Split, list[Commit]]


_MANIFEST, _SHARDS = TypeAdapter(Manifest), TypeAdapter(_Shards)


def make_manifest(
    folder: Folder, request: dict[str, Any], layout: Layout, commits: Commits, norm_tokens: int
) -> Manifest:
    """Return the manifest that lists these commits.

    Args:
        folder: the store's folder.
        request: what the store was made from.
        layout: how its tokens are cut.
        commits: the shards to list.
        norm_tokens: training tokens behind the norm factor.

    Raises:
        DataError: the widths of the shards differ, or the first rows have no norm above 0.
    """
    shards = {
        split: [commits[item] for item in layout.all_shards() if item[0] == split and item in commits]
        for split in SPLITS
    }
    widths = sorted({commit.d_model for commit in commits.values()} | {layout.d_model})
    if len(widths) > 1:
        raise DataError(f"the shards of store {folder} have different widths {widths}: delete it and harvest again")
    sizes = (folder / TOKENS).sizes()
    names = [shard_name(*item) for item in layout.all_shards()]
    first = shards["train"][: layout.norm_shards(norm_tokens)]
    return Manifest(
        request=request,
        layout=layout,
        shards=shards,
        rows={split: sum(commit.rows for commit in of_split) for split, of_split in shards.items()},
        bytes=sum(commit.bytes for commit in commits.values()),
        token_bytes={name: sizes[f"{name}.safetensors"] for name in names if f"{name}.safetensors" in sizes},
        norm=Norm(norm_tokens, norm_factor(first)),
    )


def check_manifest(folder: Folder, name: str, layout: Layout, commits: Commits) -> Manifest:
    """Read a manifest and compare it with the store's other files.

    Args:
        folder: the store's folder.
        name: `MANIFEST` or `PARTIAL`.
        layout: the layout of the store.
        commits: the commits of the store.

    Raises:
        DataError: the file is not a manifest, or differs from the other files; the message says in what.
    """
    found, where = read_manifest(folder, name), folder / name
    again = f"delete {where} and harvest again to have it made"
    if name == MANIFEST and found.listed != layout.all_shards():
        raise DataError(f"{where} lists {len(found.listed)} shards, the layout {len(layout.all_shards())}; {again}")
    for split, shard in found.listed:
        if commits.get((split, shard)) != found.shards[split][shard]:
            commit = folder / ACTIVATIONS / f"{shard_name(split, shard)}.json"
            raise DataError(f"{where} does not agree with the commit {commit}; {again}")
    listed = {item: commits[item] for item in found.listed}
    expected = make_manifest(folder, read_request(folder), layout, listed, found.norm.tokens)
    for field in fields(Manifest):
        if getattr(found, field.name) != getattr(expected, field.name):
            raise DataError(f"'{field.name}' of {where} is not what the store's other files say; {again}")
    return found


def read_manifest(folder: Folder, name: str) -> Manifest:
    """Read a manifest without looking at the store's other files.

    Args:
        folder: the store's folder.
        name: `MANIFEST` or `PARTIAL`.

    Raises:
        DataError: the file is not a manifest, or was edited.
    """
    where = folder / name
    plain = decode_sealed(folder.read(name) or b"", where)
    try:
        return _MANIFEST.validate_json(plain, strict=True)
    except ValidationError:
        raise DataError(
            f"{where} is not a manifest that this version writes; delete {where} and harvest again to have it made"
        ) from None


def decode_shards(content: bytes, where: object) -> dict[Split, list[Commit]]:
    """Return the commits that a manifest lists, by split.

    Args:
        content: the bytes of the file.
        where: the file, for the error message.

    Raises:
        DataError: the content is not a manifest, or was edited.
    """
    plain = decode_sealed(content, where)
    try:
        return _SHARDS.validate_json(plain, strict=True).shards
    except ValidationError:
        raise DataError(f"{where} is not a manifest; delete it and harvest again to have it made") from None


def read_request(folder: Folder) -> dict[str, Any]:
    """Return the request of a store, without the names that a person uses for its model and corpus.

    Raises:
        DataError: the request is missing or cannot be read.
    """
    content = folder.read(REQUEST)
    if content is None:
        raise DataError(f"{folder / REQUEST} is missing; harvest again to have it made")
    tree = decode_record(content, folder / REQUEST)
    return {name: value for name, value in tree.items() if name != "read_from"}


def read_commits(folder: Folder, layout: Layout) -> Commits:
    """Return the commits of the shards that are whole by their size; readers verify the checksum."""
    place = folder / ACTIVATIONS
    sizes = place.sizes()
    there = {item: shard_name(*item) for item in layout.all_shards()}
    there = {item: name for item, name in there.items() if {f"{name}.json", f"{name}.safetensors"} <= sizes.keys()}
    with ThreadPoolExecutor(_READS_AT_ONCE) as pool:
        contents = list(pool.map(lambda name: place.read(f"{name}.json"), there.values()))
    found: Commits = {}
    for (item, name), content in zip(there.items(), contents, strict=True):
        try:
            commit = decode_commit(content or b"", place / f"{name}.json")
        except DataError as error:
            log.warning("%s", error)  # a torn or edited commit is no commit
            continue
        if commit.bytes == sizes[f"{name}.safetensors"]:
            found[item] = commit
    return found
