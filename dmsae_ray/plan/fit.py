"""Whether a cluster can hold an experiment, and how many of its trials at once.

When the parts of a trial do not fit on a cluster, Ray Tune, Train and Data wait for ever and say nothing. `check_fits`
reports this before anything starts.
"""

from collections.abc import Callable

from dmsae_ray.errors import ConfigError
from dmsae_ray.plan.capacity import Bundle, Cluster
from dmsae_ray.plan.plan import Plan
from dmsae_ray.plan.words import bundles_text

_LIGHT_CPUS = 0.05


def check_fits(plan: Plan, cluster: Cluster) -> None:
    """Check that a cluster at its largest can hold the harvest and, after it, one trial.

    Raises:
        ConfigError: It cannot. The message gives the resources needed, those that exist, and the settings to change.
    """
    check_harvest_fits(plan, cluster)
    settings = "resources.workers_per_trial, cpus/gpus_per_worker or cpus/gpus_per_model_actor"
    _check_bundles(plan.needs(1), cluster, "a trial", settings)


def check_harvest_fits(plan: Plan, cluster: Cluster) -> None:
    """Check that a cluster at its largest can hold the harvest.

    Raises:
        ConfigError: It cannot, see `check_fits`.
    """
    _check_bundles(plan.harvest_needs, cluster, "harvesting", "resources.model_actors_min or cpus/gpus_per_model_actor")


def trials_at_once(plan: Plan, cluster: Cluster) -> int:
    """Return how many trials to run together: as many as fit, `plan.at_once` at most.

    More trials would hold resources and wait.
    """
    return _largest_fitting(int(min(plan.at_once, cluster.most_drivers)), plan.needs, cluster)


def trials_beside_harvest(plan: Plan, cluster: Cluster, borrowed_cpus: float = 0.0) -> int:
    """Return how many trials may run while the whole actor pool of the harvest works.

    The cluster must hold both of them in full: a trial waits for shards, so it must never hold the resources that a
    lost model actor needs to start again.

    Args:
        plan: The plan of the experiment.
        cluster: The cluster at its largest.
        borrowed_cpus: CPUs that the cluster counts but does not have. Where harvest and trials would share a core,
            running both at once took longer than one after the other.

    Returns:
        The number of trials; 0 if they must begin after the harvest.
    """
    if not plan.pool_needs:
        return 0
    # A little more: without a free core, what reserves no CPU (drivers, Ray itself) shares one with the trials.
    missing = (Bundle("CPU that is not there", borrowed_cpus + _LIGHT_CPUS),) if borrowed_cpus else ()
    most = trials_at_once(plan, cluster)
    return _largest_fitting(most, lambda n: (*missing, *plan.beside_harvest(n)), cluster)


def _largest_fitting(high: int, needs: Callable[[int], tuple[Bundle, ...]], cluster: Cluster) -> int:
    """Return the largest number up to `high` whose needs fit; 0 if the needs of one trial do not fit."""
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
        f"{what} needs {bundles_text(bundles)} at once{why}; {cluster}, together at most {cpus:g} CPU and "
        f"{gpus:g} GPU; lower {settings}, or take a larger cluster"
    )
