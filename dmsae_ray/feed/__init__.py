"""From a store, or a stream of model actors, to the batches of a Train worker."""

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
