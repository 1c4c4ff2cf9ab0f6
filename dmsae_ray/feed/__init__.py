"""From a store, or a stream of model actors, to the batches of a Train worker."""

from typing import TYPE_CHECKING

from dmsae_ray.lazy import face

if TYPE_CHECKING:
    from dmsae_ray.feed.feed import Feed as Feed
    from dmsae_ray.feed.shards import ShardSource as ShardSource
    from dmsae_ray.feed.source import StoreSource as StoreSource
    from dmsae_ray.feed.stream import Stream as Stream
    from dmsae_ray.feed.stream_service import ended as ended
    from dmsae_ray.feed.stream_service import start_stream as start_stream

__getattr__, __dir__, __all__ = face(
    __name__,
    {
        "feed": ("Feed",),
        "shards": ("ShardSource",),
        "source": ("StoreSource",),
        "stream": ("Stream",),
        "stream_service": (
            "ended",
            "start_stream",
        ),
    },
)
