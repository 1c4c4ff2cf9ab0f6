"""What an experiment would do, what it costs and whether a cluster can hold it; starts nothing."""

from typing import TYPE_CHECKING

from dmsae_ray.lazy import face

if TYPE_CHECKING:
    from dmsae_ray.plan.plan import check_fits as check_fits
    from dmsae_ray.plan.plan import cluster_of_ray as cluster_of_ray
    from dmsae_ray.plan.plan import cluster_of_yaml as cluster_of_yaml
    from dmsae_ray.plan.plan import plan_experiment as plan_experiment
    from dmsae_ray.plan.plan import trials_at_once as trials_at_once
    from dmsae_ray.plan.plan import trials_beside_harvest as trials_beside_harvest
    from dmsae_ray.plan.training import cycle_settings as cycle_settings
    from dmsae_ray.plan.training import initial_sae as initial_sae
    from dmsae_ray.plan.trials import TrialSpec as TrialSpec
    from dmsae_ray.plan.trials import expand as expand

__getattr__, __dir__, __all__ = face(
    __name__,
    {
        "plan": (
            "check_fits",
            "cluster_of_ray",
            "cluster_of_yaml",
            "plan_experiment",
            "trials_at_once",
            "trials_beside_harvest",
        ),
        "training": (
            "cycle_settings",
            "initial_sae",
        ),
        "trials": (
            "TrialSpec",
            "expand",
        ),
    },
)
