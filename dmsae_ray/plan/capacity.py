"""What a cluster can hold: its running nodes, the nodes that its autoscaler may add, and whether bundles fit."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import inf
from pathlib import Path
from typing import Any

import yaml

from dmsae_ray.config import HEAD
from dmsae_ray.errors import ConfigError, one_line

DRIVER_BYTES = 800_000_000
"""The memory of a trial's processes on the head node, as seen: its driver, 0.4 GB, and two actors of Train, 0.2."""

_EPSILON = 1e-9
"""Tolerance, because shares such as 0.05 CPU do not add up exactly in binary."""


@dataclass(frozen=True)
class Bundle:
    """The resources of one process, or of several equal ones; each process runs on one node.

    Attributes:
        what: The process, in words.
        cpus: CPUs of each process.
        gpus: GPUs of each process.
        count: Number of processes.
    """

    what: str
    cpus: float
    gpus: float = 0.0
    count: int = 1

    def __str__(self) -> str:
        each = f"{self.cpus:g} CPU" + (f" + {self.gpus:g} GPU" if self.gpus else "")
        return f"{self.count} x {self.what} ({each})"


@dataclass(frozen=True)
class NodeKind:
    """A kind of node.

    Attributes:
        name: Name of the kind.
        cpus: CPUs of each node.
        gpus: GPUs of each node.
        running: Number of nodes that run now.
        most: Number of nodes at most, the running ones included.
        dollars: Price of one node for one hour; None if it is not known.
    """

    name: str
    cpus: float
    gpus: float
    running: int
    most: int
    dollars: float | None = None


@dataclass(frozen=True)
class Cluster:
    """The nodes of a cluster at its largest.

    Attributes:
        name: Name of the cluster, for messages.
        kinds: Its kinds of nodes.
        most_nodes: Nodes of all kinds together, head included, that the autoscaler allows.
        head_bytes: Memory of the head node, where each running trial has its driver.
    """

    name: str
    kinds: tuple[NodeKind, ...]
    most_nodes: float = inf
    head_bytes: float = inf

    @property
    def most_drivers(self) -> float:
        """How many trials the memory of the head node can hold; at least one is tried."""
        return inf if self.head_bytes == inf else max(1.0, self.head_bytes // DRIVER_BYTES)

    def __str__(self) -> str:
        limit = "" if self.most_nodes == inf else f", at most {self.most_nodes:g} nodes in all"
        kinds = [
            f"{kind.most} x {kind.name} ({kind.cpus:g} CPU" + (f" + {kind.gpus:g} GPU)" if kind.gpus else ")")
            for kind in self.kinds
            if kind.most
        ]
        return f"{self.name}: {', '.join(kinds) or 'no nodes'}{limit}"

    def totals(self) -> tuple[float, float]:
        """Return the most CPUs and the most GPUs, each on its own, that the allowed number of nodes can give."""
        return self._most("cpus"), self._most("gpus")

    def _most(self, resource: str) -> float:
        running = [float(getattr(k, resource)) for k in self.kinds for _ in range(k.running)]
        startable = sorted(
            (float(getattr(k, resource)) for k in self.kinds for _ in range(k.most - k.running)), reverse=True
        )
        room = self.most_nodes - len(running)
        return sum(running) + sum(value for place, value in enumerate(startable) if place < room)

    def unplaced(self, bundles: Sequence[Bundle]) -> Bundle | None:
        """Place all bundles, the largest first, and return the first one that does not fit; None when all fit.

        The method is best fit decreasing: a bundle goes to the node with the fewest free GPUs, then the fewest free
        CPUs, and a new node is started only when no running one has room. The result is exact for bundles of equal
        size. For mixed sizes it errs on the safe side.
        """
        return self._place(bundles)[1]

    def started(self, bundles: Sequence[Bundle]) -> dict[str, int]:
        """Return how many nodes of each kind must be started, beside the running ones, to hold all bundles that fit."""
        return self._place(bundles)[0]

    def _place(self, bundles: Sequence[Bundle]) -> tuple[dict[str, int], Bundle | None]:
        # Free resources of each node that is up: [gpus, cpus].
        up = [[k.gpus, k.cpus] for k in self.kinds for _ in range(k.running)]
        started = {k.name: 0 for k in self.kinds}
        single = [b for b in bundles for _ in range(b.count)]
        for bundle in sorted(single, key=lambda b: (b.gpus, b.cpus), reverse=True):
            fitting = [node for node in up if _fits(bundle, node[1], node[0])]
            if not fitting:
                kinds = [
                    k for k in self.kinds if k.running + started[k.name] < k.most and _fits(bundle, k.cpus, k.gpus)
                ]
                if not kinds or len(up) >= self.most_nodes:
                    return started, bundle
                kind = min(kinds, key=lambda k: (k.gpus, k.cpus))
                started[kind.name] += 1
                up.append([kind.gpus, kind.cpus])
                fitting = [up[-1]]
            node = min(fitting, key=lambda n: (n[0], n[1]))
            node[0] -= bundle.gpus
            node[1] -= bundle.cpus
        return started, None


def _fits(bundle: Bundle, cpus: float, gpus: float) -> bool:
    return bundle.cpus <= cpus + _EPSILON and bundle.gpus <= gpus + _EPSILON


def one_node(cpus: float, gpus: float = 0.0, name: str = "this machine") -> Cluster:
    """Return a cluster of a single node."""
    return Cluster(name, (NodeKind("node", cpus, gpus, 1, 1),))


def cluster_of_yaml(path: str | Path) -> Cluster:
    """Return the cluster of a Ray launcher file at its largest: the head, and every node type up to its max_workers.

    The file may say in `metadata.prices`, which Ray does not read, what a node of a type costs: dollars for one hour.

    Raises:
        ConfigError: The file cannot be read, it has no node types with resources, or a price is none.
    """
    try:
        config = yaml.safe_load(Path(path).expanduser().read_text(encoding="utf-8"))
        types, head, head_bytes = config["available_node_types"], config["head_node_type"], inf
        limit = int(config.get("max_workers", 2))  # the launcher's default
        prices = (config.get("metadata") or {}).get("prices") or {}
        kinds = []
        for name, node in types.items():
            resources = node.get("resources") or {}
            if "CPU" not in resources:
                raise ConfigError(f"cluster file '{path}': node type '{name}' has no resources.CPU")
            running = 1 if name == head else 0
            if name == head:
                head_bytes = float(resources.get("memory", inf))
            most = int(node.get("max_workers", 0 if running else limit)) + running
            kinds.append(NodeKind(name, float(resources["CPU"]), float(resources.get("GPU", 0)), running, most))
    except OSError as error:
        raise ConfigError(f"cluster file '{path}' cannot be read: {error.strerror or error}") from None
    except (yaml.YAMLError, UnicodeDecodeError, KeyError, TypeError, ValueError, AttributeError) as error:
        raise ConfigError(
            f"cluster file '{path}' is no file of Ray's cluster launcher with available_node_types and "
            f"head_node_type ({one_line(error)})"
        ) from None
    return priced(Cluster(str(path), tuple(kinds), limit + 1, head_bytes), prices, f"cluster file '{path}'")


def priced(cluster: Cluster, prices: Mapping[str, Any], where: str) -> Cluster:
    """Return the cluster with these prices: dollars for one hour of a node, by the kind's name.

    Args:
        cluster: The cluster.
        prices: The prices; a kind that is not named keeps its own.
        where: Where they were given, for the message of an error.

    Raises:
        ConfigError: There is no such kind, or a price is not a number, at least 0.
    """
    names = [kind.name for kind in cluster.kinds]
    for name, price in prices.items():
        if name not in names:
            raise ConfigError(f"{where}: a price is given for '{name}'; node types are {', '.join(names)}")
        if isinstance(price, bool) or not isinstance(price, int | float) or not 0 <= price < inf:
            raise ConfigError(f"{where}: the price of '{name}' is {price!r}; it must be dollars an hour, at least 0")
    kinds = (replace(kind, dollars=prices.get(kind.name, kind.dollars)) for kind in cluster.kinds)
    return replace(cluster, kinds=tuple(kinds))


def cluster_of_nodes(nodes: Sequence[dict[str, Any]]) -> Cluster:
    """Return the cluster of running nodes, each given by its Ray resources: `{"CPU": 8.0, "GPU": 1.0}`."""
    head = [float(node["memory"]) for node in nodes if HEAD in node and "memory" in node]
    shapes: dict[tuple[float, float], int] = {}
    for node in nodes:
        shape = (float(node.get("CPU", 0)), float(node.get("GPU", 0)))
        shapes[shape] = shapes.get(shape, 0) + 1
    kinds = [NodeKind(f"node {i}", *shape, count, count) for i, (shape, count) in enumerate(shapes.items())]
    name = "the cluster as it runs now (if it grows, --cluster FILE says how far)"
    return Cluster(name, tuple(kinds), head_bytes=head[0] if head else inf)


def cluster_of_groups(groups: Iterable[Any]) -> Cluster | None:
    """Return the cluster that an autoscaler has reported to Ray, None if it says nothing of nodes.

    Args:
        groups: The `node_group_configs` of Ray's message ClusterConfig; a group that may grow without limit has
            max_count -1.
    """
    kinds = []
    for group in groups:
        most = int(group.max_count) if group.max_count >= 0 else 10**6
        cpus, gpus = (float(group.resources.get(name, 0)) for name in ("CPU", "GPU"))
        kinds.append(NodeKind(group.name, cpus, gpus, min(int(group.min_count), most), most))
    return Cluster("the cluster as Ray's autoscaler reports it", tuple(kinds)) if kinds else None
