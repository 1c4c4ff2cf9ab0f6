"""Token shards as files: what tells readers how a store is cut."""

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor

import safetensors.numpy
from safetensors import SafetensorError

from dmsae_ray.corpus import Contexts
from dmsae_ray.errors import DataError
from dmsae_ray.files import Folder, checksum
from dmsae_ray.store.layout import LAYOUT, TOKENS, Layout, decode_layout

_READERS = 16  # of shards, at once


def read_layout(folder: Folder) -> Layout | None:
    """The layout of a store whose tokens are complete; None while they are not."""
    content = (folder / TOKENS).read(LAYOUT)
    return None if content is None else decode_layout(content, folder / TOKENS / LAYOUT)


def damaged_shards(place: Folder, checksums: Mapping[str, str]) -> list[str]:
    """Names of the token shards in `place` that are missing, or are not what was written; reads them all."""

    def sound(name: str) -> bool:
        content = place.read(f"{name}.safetensors")
        return content is not None and checksum(content) == checksums[name]

    with ThreadPoolExecutor(_READERS) as readers:
        return [name for name, good in zip(checksums, readers.map(sound, checksums), strict=True) if not good]


def read_tokens(folder: Folder, layout: Layout, name: str) -> Contexts:
    """A token shard, its checksum verified."""
    where = folder / TOKENS / f"{name}.safetensors"
    content = (folder / TOKENS).read(f"{name}.safetensors")
    if content is None:
        raise DataError(f"{where} is missing; harvest again to have it made")
    if checksum(content) != layout.token_checksums.get(name):
        raise DataError(f"{where} does not have its checksum; delete it and harvest again to have it made")
    try:
        tensors = safetensors.numpy.load(content)
        return Contexts(tensors["tokens"], tensors["starts"])
    except (SafetensorError, KeyError) as error:
        raise DataError(f"{where} is not a token shard: {error}") from None
