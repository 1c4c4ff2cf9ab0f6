"""What a sweep uses and what it costs: hours of GPUs (or CPU cores), hours of nodes, dollars."""

from dataclasses import dataclass
from math import inf

from dmsae_ray.plan.capacity import Bundle, Cluster, NodeKind
from dmsae_ray.plan.plan import Plan
from dmsae_ray.plan.schedule import Schedule


@dataclass(frozen=True)
class Usage:
    """Hours of GPUs, or of CPU cores where workers have no GPU, by what holds them.

    Attributes:
        workers: The Train workers of all trials, from the start to the end of each.
        service: The language model that measures the loss recovered, for as long as trials run.
        harvest: The language-model actors of the harvest.
    """

    workers: float
    service: float
    harvest: float

    @property
    def total(self) -> float:
        """Sum of what is held."""
        return self.workers + self.service + self.harvest


def usage(plan: Plan, schedule: Schedule) -> Usage:
    """Return the GPUs (or CPU cores) that a sweep keeps others from, for as long as it does.

    A GPU that has a process on it counts whole; a language model that fits beside trials on their GPUs costs only what
    is needed without them.
    """
    on_gpu = plan.rate.unit == "GPU"

    def units(bundles: tuple[Bundle, ...]) -> float:
        if not on_gpu:
            return sum(b.cpus * b.count for b in bundles)
        each = max(1.0, *(b.gpus for b in bundles))
        return each * Cluster("", (NodeKind("gpu", inf, each, 0, 10**6),)).started(bundles)["gpu"]

    service = units(plan.service_needs)
    each = (units(plan.needs(schedule.at_once)) - service) / schedule.at_once
    pool = units(plan.pool_needs or plan.harvest_needs[:1])
    return Usage(schedule.held * each, schedule.service * service, schedule.harvest * pool)


@dataclass(frozen=True)
class Bill:
    """Hours of each kind of node, and their price.

    Attributes:
        hours: Hours of nodes, by the name of the kind.
        dollars: The price of all of them; None where a kind that is used has no price.
        unpriced: Kinds that are used and have no price.
    """

    hours: dict[str, float]
    dollars: float | None
    unpriced: tuple[str, ...]


def bill(plan: Plan, schedule: Schedule, cluster: Cluster) -> Bill:
    """Return the node hours of a sweep on a cluster whose nodes come and go with the work.

    Nodes that run from the start are paid to the end. A node that holds several trials counts in parts.
    """
    hours = {kind.name: kind.running * schedule.total for kind in cluster.kinds}

    def add(count: float, nodes: dict[str, int]) -> None:
        for name, started in nodes.items():
            hours[name] += started * count

    add(schedule.harvest, cluster.started(plan.pool_needs or plan.harvest_needs))
    service, most = cluster.started(plan.service_needs), cluster.started(plan.needs(schedule.at_once))
    add(schedule.service, service)
    add(schedule.held / schedule.at_once, {name: most[name] - service.get(name, 0) for name in most})
    used = {name: value for name, value in hours.items() if value > 0}
    prices = {kind.name: kind.dollars for kind in cluster.kinds}
    unpriced = tuple(name for name in used if prices[name] is None)
    dollars = None if unpriced else sum(value * (prices[name] or 0.0) for name, value in used.items())
    return Bill(used, dollars, unpriced)
