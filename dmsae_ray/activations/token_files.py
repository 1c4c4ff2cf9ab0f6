"""Token shards as files: what tells readers how a store is cut."""

import safetensors.numpy
from safetensors import SafetensorError

from dmsae_ray.activations.files import Folder, checksum
from dmsae_ray.activations.packing import Contexts
from dmsae_ray.activations.records import LAYOUT, TOKENS, Layout, decode_layout
from dmsae_ray.errors import DataError


def read_layout(folder: Folder) -> Layout | None:
    """The layout of a store whose tokens are complete; None while they are not."""
    content = (folder / TOKENS).read(LAYOUT)
    return None if content is None else decode_layout(content, folder / TOKENS / LAYOUT)


def read_tokens(folder: Folder, layout: Layout, name: str) -> Contexts:
    """A token shard, its checksum verified."""
    where = folder / TOKENS / f"{name}.safetensors"
    content = (folder / TOKENS).read(f"{name}.safetensors")
    if content is None:
        raise DataError(f"{where} is missing; delete {folder / TOKENS / LAYOUT} to have the tokens made again")
    if checksum(content) != layout.token_checksums.get(name):
        raise DataError(f"{where} does not have its checksum; delete {folder / TOKENS / LAYOUT} to have it made again")
    try:
        tensors = safetensors.numpy.load(content)
        return Contexts(tensors["tokens"], tensors["starts"])
    except (SafetensorError, KeyError) as error:
        raise DataError(f"{where} is not a token shard: {error}") from None
