"""Whether a cluster can hold an experiment, and how many of its trials at once.

Tune, Train and Data together wait silently for ever when the pieces of a trial do not fit a cluster; `check_fits` says
so before anything starts.
"""

from collections.abc import Callable

from dmsae_ray.errors import ConfigError
from dmsae_ray.plan.capacity import Bundle, Cluster
from dmsae_ray.plan.plan import Plan
from dmsae_ray.plan.words import bundles_text


def check_fits(plan: Plan, cluster: Cluster) -> None:
    """See that a cluster at its largest can hold the harvest and, after it, a trial.

    Raises:
        ConfigError: it cannot; the message has the sum, what there is, and the settings to change.
    """
    _check_bundles(plan.harvest_needs, cluster, "harvesting", "resources.model_actors_min or cpus/gpus_per_model_actor")
    settings = "resources.workers_per_trial, cpus/gpus_per_worker or cpus/gpus_per_model_actor"
    _check_bundles(plan.needs(1), cluster, "a trial", settings)


def trials_at_once(plan: Plan, cluster: Cluster) -> int:
    """How many trials to run together: as many as fit, of those that may; more would hold resources and wait."""
    return _largest_fitting(plan.at_once, plan.needs, cluster)


def trials_beside_harvest(plan: Plan, cluster: Cluster, borrowed_cpus: float = 0.0) -> int:
    """How many trials may run while the harvest's whole pool is at work; 0: they begin after it.

    Args:
        plan: of the experiment.
        cluster: at its largest.
        borrowed_cpus: CPUs that the cluster counts and does not have. Where harvest and trials would share a core,
            both at once took longer than one after the other.

    The cluster has to hold both to the last actor: a trial waits for shards, so it must never hold what a model actor
    that was lost needs to come back.
    """
    most = trials_at_once(plan, cluster)
    missing = (Bundle("CPU that is not there", borrowed_cpus),) if borrowed_cpus else ()
    return (
        _largest_fitting(most, lambda n: (*missing, *plan.beside_harvest(n, most - n)), cluster)
        if plan.pool_needs
        else 0
    )


def _largest_fitting(high: int, needs: Callable[[int], tuple[Bundle, ...]], cluster: Cluster) -> int:
    """The largest number up to `high` whose needs fit; 0 if not even one's do."""
    low = 0
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if cluster.unplaced(needs(middle)) is None else (low, middle - 1)
    return low


def _check_bundles(bundles: tuple[Bundle, ...], cluster: Cluster, what: str, settings: str) -> None:
    stuck = cluster.unplaced(bundles)
    if stuck is None:
        return
    cpus, gpus = cluster.totals()
    scattered = sum(b.cpus * b.count for b in bundles) <= cpus and sum(b.gpus * b.count for b in bundles) <= gpus
    why = f"; in sum that is there, but no node has room left for {stuck.what}" if scattered else ""
    raise ConfigError(
        f"{what} needs {bundles_text(bundles)} at once{why}; {cluster}, together at most {cpus:g} CPU and {gpus:g} GPU; "
        f"lower {settings}, or take a larger cluster"
    )
