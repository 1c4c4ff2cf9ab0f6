"""The format of stored activations: layout, manifest, identity, order; its reader and its inventory."""

from typing import TYPE_CHECKING

from dmsae_ray.lazy import face

if TYPE_CHECKING:
    from dmsae_ray.store.identity import file_hash as file_hash
    from dmsae_ray.store.identity import unpinned as unpinned
    from dmsae_ray.store.int8 import dequantise as dequantise
    from dmsae_ray.store.int8 import quantise as quantise
    from dmsae_ray.store.inventory import Checked as Checked
    from dmsae_ray.store.inventory import check as check
    from dmsae_ray.store.inventory import find as find
    from dmsae_ray.store.inventory import keys as keys
    from dmsae_ray.store.inventory import list_stores as list_stores
    from dmsae_ray.store.inventory import remove as remove
    from dmsae_ray.store.layout import ACTIVATIONS as ACTIVATIONS
    from dmsae_ray.store.layout import LAYOUT as LAYOUT
    from dmsae_ray.store.layout import MANIFEST as MANIFEST
    from dmsae_ray.store.layout import PARTIAL as PARTIAL
    from dmsae_ray.store.layout import REQUEST as REQUEST
    from dmsae_ray.store.layout import SPLITS as SPLITS
    from dmsae_ray.store.layout import STREAMED as STREAMED
    from dmsae_ray.store.layout import TOKENS as TOKENS
    from dmsae_ray.store.layout import Commit as Commit
    from dmsae_ray.store.layout import Layout as Layout
    from dmsae_ray.store.layout import Split as Split
    from dmsae_ray.store.layout import decode as decode
    from dmsae_ray.store.layout import decode_commit as decode_commit
    from dmsae_ray.store.layout import encode as encode
    from dmsae_ray.store.layout import request_of as request_of
    from dmsae_ray.store.layout import shard_name as shard_name
    from dmsae_ray.store.layout import store_key as store_key
    from dmsae_ray.store.manifest import Commits as Commits
    from dmsae_ray.store.manifest import check_manifest as check_manifest
    from dmsae_ray.store.manifest import make_manifest as make_manifest
    from dmsae_ray.store.manifest import read_commits as read_commits
    from dmsae_ray.store.order import ORDER_VERSION as ORDER_VERSION
    from dmsae_ray.store.order import Window as Window
    from dmsae_ray.store.order import batch_rows as batch_rows
    from dmsae_ray.store.order import row_order as row_order
    from dmsae_ray.store.order import shard_order as shard_order
    from dmsae_ray.store.order import share as share
    from dmsae_ray.store.order import stored_order as stored_order
    from dmsae_ray.store.order import windows_from as windows_from
    from dmsae_ray.store.reader import Store as Store
    from dmsae_ray.store.reader import check_finite as check_finite
    from dmsae_ray.store.reader import open_store as open_store
    from dmsae_ray.store.tensor_file import tensors_in as tensors_in
    from dmsae_ray.store.token_shards import damaged_shards as damaged_shards
    from dmsae_ray.store.token_shards import read_layout as read_layout
    from dmsae_ray.store.token_shards import read_tokens as read_tokens
    from dmsae_ray.store.usage import Reading as Reading
    from dmsae_ray.store.writer import HEARTBEAT as HEARTBEAT
    from dmsae_ray.store.writer import Heartbeat as Heartbeat
    from dmsae_ray.store.writer import Watch as Watch

__getattr__, __dir__, __all__ = face(
    __name__,
    {
        "identity": (
            "file_hash",
            "unpinned",
        ),
        "int8": (
            "dequantise",
            "quantise",
        ),
        "inventory": (
            "Checked",
            "check",
            "find",
            "keys",
            "list_stores",
            "remove",
        ),
        "layout": (
            "ACTIVATIONS",
            "LAYOUT",
            "MANIFEST",
            "PARTIAL",
            "REQUEST",
            "SPLITS",
            "STREAMED",
            "TOKENS",
            "Commit",
            "Layout",
            "Split",
            "decode",
            "decode_commit",
            "encode",
            "request_of",
            "shard_name",
            "store_key",
        ),
        "manifest": (
            "Commits",
            "check_manifest",
            "make_manifest",
            "read_commits",
        ),
        "order": (
            "ORDER_VERSION",
            "Window",
            "batch_rows",
            "row_order",
            "shard_order",
            "share",
            "stored_order",
            "windows_from",
        ),
        "reader": (
            "Store",
            "check_finite",
            "open_store",
        ),
        "tensor_file": ("tensors_in",),
        "token_shards": (
            "damaged_shards",
            "read_layout",
            "read_tokens",
        ),
        "usage": ("Reading",),
        "writer": (
            "HEARTBEAT",
            "Heartbeat",
            "Watch",
        ),
    },
)
