"""The format of a store of activations: its files, its key and its training order; the package reads and checks stores.

Input: the `Experiment`, from which the key of its store is computed, and the folder of stores. Output: a `Store`, which
reads shards (also while a harvest still writes them), the order of rows in training, and an inventory that lists,
checks and removes stores. `harvest` computes what a store holds; `feed` reads it for training.
"""

from typing import TYPE_CHECKING

from dmsae_ray.lazy import face

if TYPE_CHECKING:
    from dmsae_ray.store.commit import Commit as Commit
    from dmsae_ray.store.commit import decode_commit as decode_commit
    from dmsae_ray.store.identity import request_of as request_of
    from dmsae_ray.store.identity import store_key as store_key
    from dmsae_ray.store.identity import unpinned as unpinned
    from dmsae_ray.store.int8 import dequantise as dequantise
    from dmsae_ray.store.int8 import quantise as quantise
    from dmsae_ray.store.inventory import CheckedFile as CheckedFile
    from dmsae_ray.store.inventory import check_store as check_store
    from dmsae_ray.store.inventory import find_key as find_key
    from dmsae_ray.store.inventory import list_stores as list_stores
    from dmsae_ray.store.inventory import remove_store as remove_store
    from dmsae_ray.store.inventory import store_keys as store_keys
    from dmsae_ray.store.layout import ACTIVATIONS as ACTIVATIONS
    from dmsae_ray.store.layout import DRAFT as DRAFT
    from dmsae_ray.store.layout import LAYOUT as LAYOUT
    from dmsae_ray.store.layout import MANIFEST as MANIFEST
    from dmsae_ray.store.layout import PARTIAL as PARTIAL
    from dmsae_ray.store.layout import REQUEST as REQUEST
    from dmsae_ray.store.layout import SPLITS as SPLITS
    from dmsae_ray.store.layout import STREAMED as STREAMED
    from dmsae_ray.store.layout import TOKENS as TOKENS
    from dmsae_ray.store.layout import Layout as Layout
    from dmsae_ray.store.layout import Split as Split
    from dmsae_ray.store.layout import shard_name as shard_name
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
    from dmsae_ray.store.progress import StoreProgress as StoreProgress
    from dmsae_ray.store.progress import store_progress as store_progress
    from dmsae_ray.store.reader import Store as Store
    from dmsae_ray.store.reader import check_finite_shard as check_finite_shard
    from dmsae_ray.store.reader import open_store as open_store
    from dmsae_ray.store.sae_note import note_of as note_of
    from dmsae_ray.store.tensor_file import tensors_in as tensors_in
    from dmsae_ray.store.timing import TIMING as TIMING
    from dmsae_ray.store.timing import StoreTiming as StoreTiming
    from dmsae_ray.store.token_shards import damaged_shards as damaged_shards
    from dmsae_ray.store.token_shards import read_layout as read_layout
    from dmsae_ray.store.token_shards import read_tokens as read_tokens
    from dmsae_ray.store.usage import UsageMark as UsageMark
    from dmsae_ray.store.writer import HEARTBEAT as HEARTBEAT
    from dmsae_ray.store.writer import StoreWriter as StoreWriter
    from dmsae_ray.store.writer import WriterWatch as WriterWatch

__getattr__, __dir__, __all__ = face(
    __name__,
    {
        "commit": (
            "Commit",
            "decode_commit",
        ),
        "identity": (
            "request_of",
            "store_key",
            "unpinned",
        ),
        "int8": (
            "dequantise",
            "quantise",
        ),
        "inventory": (
            "CheckedFile",
            "check_store",
            "find_key",
            "list_stores",
            "remove_store",
            "store_keys",
        ),
        "layout": (
            "ACTIVATIONS",
            "DRAFT",
            "LAYOUT",
            "MANIFEST",
            "PARTIAL",
            "REQUEST",
            "SPLITS",
            "STREAMED",
            "TOKENS",
            "Layout",
            "Split",
            "shard_name",
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
        "progress": (
            "StoreProgress",
            "store_progress",
        ),
        "reader": (
            "Store",
            "check_finite_shard",
            "open_store",
        ),
        "sae_note": ("note_of",),
        "tensor_file": ("tensors_in",),
        "timing": (
            "TIMING",
            "StoreTiming",
        ),
        "token_shards": (
            "damaged_shards",
            "read_layout",
            "read_tokens",
        ),
        "usage": ("UsageMark",),
        "writer": (
            "HEARTBEAT",
            "StoreWriter",
            "WriterWatch",
        ),
    },
)
