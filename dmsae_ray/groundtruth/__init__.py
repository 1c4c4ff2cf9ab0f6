"""A benchmark with known features: does distillation find what matters, and do its rivals find it too?

Input: a `Regime`, which makes worlds (`World`: activations of known features, and a loss), a seed, the settings and
scorers of your own. Output: a `Replica`, plain numbers. The world is a `DataSource` of the runner that also runs on
language models; there is no second path. The room knows nothing of Ray.
"""

from typing import TYPE_CHECKING

from dmsae_ray.lazy import face

if TYPE_CHECKING:
    from dmsae_ray.groundtruth.checked_world import check_world as check_world
    from dmsae_ray.groundtruth.latent_sets import COMPARED as COMPARED
    from dmsae_ray.groundtruth.recovery import Latents as Latents
    from dmsae_ray.groundtruth.recovery import Recovery as Recovery
    from dmsae_ray.groundtruth.recovery import Truth as Truth
    from dmsae_ray.groundtruth.regimes import REGIMES as REGIMES
    from dmsae_ray.groundtruth.regimes import Regime as Regime
    from dmsae_ray.groundtruth.regimes import chosen_regimes as chosen_regimes
    from dmsae_ray.groundtruth.replica import Replica as Replica
    from dmsae_ray.groundtruth.replica import Scorer as Scorer
    from dmsae_ray.groundtruth.replica import run_replica as run_replica
    from dmsae_ray.groundtruth.settings import BenchmarkSettings as BenchmarkSettings
    from dmsae_ray.groundtruth.source import WorldModel as WorldModel
    from dmsae_ray.groundtruth.source import WorldSource as WorldSource
    from dmsae_ray.groundtruth.world import PlantedWorld as PlantedWorld
    from dmsae_ray.groundtruth.world import World as World
    from dmsae_ray.groundtruth.world import WorldSettings as WorldSettings
    from dmsae_ray.groundtruth.world import importance as importance

__getattr__, __dir__, __all__ = face(
    __name__,
    {
        "checked_world": ("check_world",),
        "latent_sets": ("COMPARED",),
        "recovery": (
            "Latents",
            "Recovery",
            "Truth",
        ),
        "regimes": (
            "REGIMES",
            "Regime",
            "chosen_regimes",
        ),
        "replica": (
            "Replica",
            "Scorer",
            "run_replica",
        ),
        "settings": ("BenchmarkSettings",),
        "source": (
            "WorldModel",
            "WorldSource",
        ),
        "world": (
            "PlantedWorld",
            "World",
            "WorldSettings",
            "importance",
        ),
    },
)
