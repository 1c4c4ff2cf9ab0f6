"""The harvest: it fills a store with tokens and activations, by Ray Data.

Input: an `Experiment` and the folder of stores. Output: a complete `Store` (`prepare`). The corpus is tokenised by Ray
tasks and written as token shards; a pool of model actors, which grows as needed, runs the language model and writes the
activation shards. A killed harvest continues where it stopped. `feed` uses the same model actors to compute shards in
mode 'stream'.
"""

from typing import TYPE_CHECKING

from dmsae_ray.lazy import face

if TYPE_CHECKING:
    from dmsae_ray.harvest.actors import GROWING as GROWING
    from dmsae_ray.harvest.actors import HarvestActor as HarvestActor
    from dmsae_ray.harvest.actors import HarvestJob as HarvestJob
    from dmsae_ray.harvest.actors import map_shards as map_shards
    from dmsae_ray.harvest.attempts import start_attempts as start_attempts
    from dmsae_ray.harvest.model import check_model as check_model
    from dmsae_ray.harvest.model import open_tap as open_tap
    from dmsae_ray.harvest.preparation import prepare as prepare
    from dmsae_ray.harvest.progress import HarvestProgress as HarvestProgress
    from dmsae_ray.harvest.ray_data import HarvestInterrupted as HarvestInterrupted
    from dmsae_ray.harvest.ray_data import end_datasets as end_datasets
    from dmsae_ray.harvest.ray_data import first_error as first_error
    from dmsae_ray.harvest.ray_data import quiet_context as quiet_context
    from dmsae_ray.harvest.token_ids import check_documents as check_documents

__getattr__, __dir__, __all__ = face(
    __name__,
    {
        "actors": (
            "GROWING",
            "HarvestActor",
            "HarvestJob",
            "map_shards",
        ),
        "attempts": ("start_attempts",),
        "model": (
            "check_model",
            "open_tap",
        ),
        "preparation": ("prepare",),
        "progress": ("HarvestProgress",),
        "ray_data": (
            "HarvestInterrupted",
            "end_datasets",
            "first_error",
            "quiet_context",
        ),
        "token_ids": ("check_documents",),
    },
)
