"""Token shards as files, and the layout that says how a store is cut."""

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor

import safetensors.numpy
from safetensors import SafetensorError

from dmsae_ray.corpus import Contexts
from dmsae_ray.errors import DataError
from dmsae_ray.files import Folder, checksum
from dmsae_ray.store.layout import LAYOUT, TOKENS, Layout, decode_layout

_READERS = 16  # shards that are read at the same time


def read_layout(folder: Folder) -> Layout | None:
    """Return the layout of a store whose tokens are complete; None while they are not.

    Raises:
        DataError: the file is not a layout.
    """
    content = (folder / TOKENS).read(LAYOUT)
    return None if content is None else decode_layout(content, folder / TOKENS / LAYOUT)


def damaged_shards(place: Folder, checksums: Mapping[str, str]) -> list[str]:
    """Return the names of the token shards in `place` that are missing or not what was written; reads all of them.

    Args:
        place: folder of the token shards.
        checksums: checksum of each shard to read, by name.
    """

    def sound(name: str) -> bool:
        content = place.read(f"{name}.safetensors")
        return content is not None and checksum(content) == checksums[name]

    with ThreadPoolExecutor(_READERS) as readers:
        return [name for name, good in zip(checksums, readers.map(sound, checksums), strict=True) if not good]


def read_tokens(folder: Folder, layout: Layout, name: str) -> Contexts:
    """Return the contexts of a token shard, after its checksum is verified.

    Args:
        folder: the store's folder.
        layout: the layout of the store, which holds the checksums.
        name: name of the shard (`shard_name`).

    Raises:
        DataError: the file is missing, differs from its checksum, or is not a token shard.
    """
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
