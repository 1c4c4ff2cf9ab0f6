"""The batches of a Train worker, read from a store or computed while they are trained on.

Input: a `Store`, the batch size, the seed of the order, and which worker of how many this is. Output: that worker's
share of every training batch, the held-out pairs (x, g) and the held-out rows (`Feed`). In mode 'stream' the training
shards come from model actors of a service, one per trial (`start_stream`, `StreamedShards`), instead of from the store;
the batches are the same.
"""

from typing import TYPE_CHECKING

from dmsae_ray.lazy import face

if TYPE_CHECKING:
    from dmsae_ray.feed.feed import Feed as Feed
    from dmsae_ray.feed.shards import ShardSource as ShardSource
    from dmsae_ray.feed.stream import StreamedShards as StreamedShards
    from dmsae_ray.feed.stream_service import killed_on_exit as killed_on_exit
    from dmsae_ray.feed.stream_service import start_stream as start_stream

__getattr__, __dir__, __all__ = face(
    __name__,
    {
        "feed": ("Feed",),
        "shards": ("ShardSource",),
        "stream": ("StreamedShards",),
        "stream_service": (
            "killed_on_exit",
            "start_stream",
        ),
    },
)
