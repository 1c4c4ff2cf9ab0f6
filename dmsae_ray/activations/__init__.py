"""Text to tokens to activations to batches (Ray Data): corpus, tokens, harvest, store, order, feed."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dmsae_ray.activations.feed import Feed
    from dmsae_ray.activations.preparation import prepare
    from dmsae_ray.activations.progress import Progress
    from dmsae_ray.activations.records import store_key
    from dmsae_ray.activations.source import StoreSource
    from dmsae_ray.activations.store import Store, open_store

__all__ = ["Feed", "Progress", "Store", "StoreSource", "open_store", "prepare", "store_key"]

_HOME = {
    "Feed": "feed",
    "Progress": "progress",
    "Store": "store",
    "StoreSource": "source",
    "open_store": "store",
    "prepare": "preparation",
    "store_key": "records",
}


def __getattr__(name: str) -> Any:
    """Import on first use: a Train worker that reads a store needs neither Ray Data nor transformers."""
    if name not in _HOME:
        raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
