"""Planning: what an experiment would do, what it costs and whether a cluster can hold it.

In: an experiment (`dmsae_ray.config`), the sizes of its language model, and a cluster.
Out: a `Plan` with the trials of the grid, the FLOPs, the bytes and the resources; as text, its hours and dollars too;
the checks that compare it with a cluster; the order in which trials begin (`TrialQueue`); what is left of a sweep
(`Work`); the manifest of a cluster on Kubernetes; and the settings that the training rooms take (`cycle_settings`,
`initial_sae`).
All of it is arithmetic: nothing is started or downloaded.
"""

from typing import TYPE_CHECKING

from dmsae_ray.lazy import face

if TYPE_CHECKING:
    from dmsae_ray.plan.capacity import DRIVER_BYTES as DRIVER_BYTES
    from dmsae_ray.plan.capacity import Cluster as Cluster
    from dmsae_ray.plan.capacity import cluster_of_groups as cluster_of_groups
    from dmsae_ray.plan.capacity import cluster_of_nodes as cluster_of_nodes
    from dmsae_ray.plan.capacity import cluster_of_yaml as cluster_of_yaml
    from dmsae_ray.plan.capacity import priced as priced
    from dmsae_ray.plan.fit import check_fits as check_fits
    from dmsae_ray.plan.fit import check_harvest_fits as check_harvest_fits
    from dmsae_ray.plan.fit import trials_at_once as trials_at_once
    from dmsae_ray.plan.fit import trials_beside_harvest as trials_beside_harvest
    from dmsae_ray.plan.given import check_given as check_given
    from dmsae_ray.plan.kuberay import Pods as Pods
    from dmsae_ray.plan.kuberay import kuberay_manifest as kuberay_manifest
    from dmsae_ray.plan.plan import Plan as Plan
    from dmsae_ray.plan.plan import plan_experiment as plan_experiment
    from dmsae_ray.plan.queue import TrialQueue as TrialQueue
    from dmsae_ray.plan.rendering import plan_text as plan_text
    from dmsae_ray.plan.text import check_text as check_text
    from dmsae_ray.plan.training import NOWHERE as NOWHERE
    from dmsae_ray.plan.training import Here as Here
    from dmsae_ray.plan.training import check_core as check_core
    from dmsae_ray.plan.training import check_initial_saes as check_initial_saes
    from dmsae_ray.plan.training import cycle_settings as cycle_settings
    from dmsae_ray.plan.training import initial_sae as initial_sae
    from dmsae_ray.plan.trials import Arm as Arm
    from dmsae_ray.plan.trials import CycleSetting as CycleSetting
    from dmsae_ray.plan.trials import Params as Params
    from dmsae_ray.plan.trials import Setting as Setting
    from dmsae_ray.plan.trials import TransferSetting as TransferSetting
    from dmsae_ray.plan.trials import Trial as Trial
    from dmsae_ray.plan.trials import axes_of as axes_of
    from dmsae_ray.plan.trials import expand as expand
    from dmsae_ray.plan.trials import times_the_tokens as times_the_tokens
    from dmsae_ray.plan.words import bytes_text as bytes_text
    from dmsae_ray.plan.words import many as many
    from dmsae_ray.plan.work import Done as Done
    from dmsae_ray.plan.work import Pace as Pace
    from dmsae_ray.plan.work import RunningTrial as RunningTrial
    from dmsae_ray.plan.work import Work as Work
    from dmsae_ray.plan.work import left_line as left_line
    from dmsae_ray.plan.work import seconds_left as seconds_left
    from dmsae_ray.plan.work import trainings_left as trainings_left
    from dmsae_ray.plan.work import work_of as work_of

__getattr__, __dir__, __all__ = face(
    __name__,
    {
        "capacity": (
            "DRIVER_BYTES",
            "Cluster",
            "cluster_of_groups",
            "cluster_of_nodes",
            "cluster_of_yaml",
            "priced",
        ),
        "fit": (
            "check_fits",
            "check_harvest_fits",
            "trials_at_once",
            "trials_beside_harvest",
        ),
        "given": ("check_given",),
        "kuberay": (
            "Pods",
            "kuberay_manifest",
        ),
        "plan": (
            "Plan",
            "plan_experiment",
        ),
        "queue": ("TrialQueue",),
        "rendering": ("plan_text",),
        "text": ("check_text",),
        "training": (
            "cycle_settings",
            "check_core",
            "NOWHERE",
            "Here",
            "check_initial_saes",
            "initial_sae",
        ),
        "trials": (
            "Arm",
            "CycleSetting",
            "Params",
            "Setting",
            "TransferSetting",
            "Trial",
            "axes_of",
            "expand",
            "times_the_tokens",
        ),
        "words": (
            "bytes_text",
            "many",
        ),
        "work": (
            "Done",
            "Pace",
            "RunningTrial",
            "Work",
            "left_line",
            "seconds_left",
            "trainings_left",
            "work_of",
        ),
    },
)
