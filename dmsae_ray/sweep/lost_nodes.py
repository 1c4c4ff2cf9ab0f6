"""Tells a person that a machine of the cluster was lost: one line each, in place of what Ray logs about it."""

import logging
from collections.abc import Callable
from typing import Any

import ray

from dmsae_ray.sweep.cluster_watch import ClusterWatch

log = logging.getLogger(__name__)

_POLL_SECONDS = 2.0
_LET_GO = (1, 4)
"""Ray's reasons (NodeDeathInfo) of nodes that ended as they should: a shutdown, and the autoscaler's for idle nodes."""


class LostNodes(ClusterWatch):
    """Context in which a thread watches the nodes of the cluster.

    Args:
        tell: Called from the thread with one line for each node that was lost.
        poll_seconds: Seconds between two looks.
    """

    def __init__(self, tell: Callable[[str], None], poll_seconds: float = _POLL_SECONDS) -> None:
        super().__init__("dmsae-lost-nodes", poll_seconds)
        self._tell = tell
        self._alive: dict[str, str] = {}

    def __enter__(self) -> "LostNodes":
        self.look()  # at once: a node can only be lost that was seen
        return super().__enter__()

    def look(self) -> None:
        """Tell the nodes that were there at the last look and are gone."""
        nodes: list[dict[str, Any]] = ray.nodes()  # type: ignore[no-untyped-call]
        for node in nodes:
            name = node["NodeID"]
            if node["Alive"]:
                self._alive[name] = node.get("NodeManagerAddress") or name[:8]
            elif name in self._alive:
                place = self._alive.pop(name)
                log.info("node %s (%s) has ended: %s", name, place, node.get("DeathReasonMessage"))
                if node.get("DeathReason") not in _LET_GO:
                    self._tell(f"a machine was lost ({place}); what ran on it goes on elsewhere")
