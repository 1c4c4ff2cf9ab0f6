"""Tells a person that a machine of the cluster was lost: one line each, in place of what Ray logs about it."""

import logging
import threading
from collections.abc import Callable
from contextlib import suppress
from types import TracebackType
from typing import Any

import ray
from ray.exceptions import RayError

log = logging.getLogger(__name__)

_POLL_SECONDS = 2.0
_END_SECONDS = 2.0
_LET_GO = (1, 4)
"""Ray's reasons (NodeDeathInfo) of nodes that ended as they should: a shutdown, and the autoscaler's for idle nodes."""


class LostNodes:
    """Context in which a thread watches the nodes of the cluster.

    Args:
        tell: Called from the thread with one line for each node that was lost.
        poll_seconds: Seconds between two looks.
    """

    def __init__(self, tell: Callable[[str], None], poll_seconds: float = _POLL_SECONDS) -> None:
        self._tell, self._poll = tell, poll_seconds
        self._alive: dict[str, str] = {}
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._run, name="dmsae-lost-nodes", daemon=True)

    def __enter__(self) -> "LostNodes":
        self._look()
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end.set()
        self._thread.join(_END_SECONDS)

    def _run(self) -> None:
        while not self._end.wait(self._poll):
            with suppress(RayError, ConnectionError):  # the head does not answer; the next look may succeed
                self._look()

    def _look(self) -> None:
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
