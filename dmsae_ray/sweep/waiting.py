"""Tells a person what waits for room on the cluster: a Ray cluster that has none says nothing."""

import time
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any

import ray
from ray.actor import ActorHandle
from ray.util import placement_group_table

from dmsae_ray.sweep.cluster_watch import ClusterWatch

POLL_SECONDS = 5.0
PATIENCE_SECONDS = 30.0
"""What waits longer is told."""
_ANSWER_SECONDS = 5.0


class Waiting(ClusterWatch):
    """Context in which a thread looks which workers of trials wait for nodes, and the language model.

    Args:
        tell: Called from the thread with a line when something has waited for `patience_seconds`, and again when more
            has.
        poll_seconds: Seconds between two looks.
        patience_seconds: How long a wait is not worth a word.
        show: Called at each look with what waits then, in words, for as little as it may be; empty if nothing does.
    """

    def __init__(
        self,
        tell: Callable[[str], None],
        poll_seconds: float = POLL_SECONDS,
        patience_seconds: float = PATIENCE_SECONDS,
        show: Callable[[str], None] | None = None,
    ) -> None:
        super().__init__("dmsae-waiting", poll_seconds)
        self._tell, self._patience, self._show = tell, patience_seconds, show
        self._since: dict[str, float] = {}
        self._told: set[str] = set()
        self._asked: dict[str, ActorHandle[Any]] = {}

    def ask(self, what: str, service: ActorHandle[Any]) -> None:
        """Ask a service at each look whether what it starts waits for a place.

        Args:
            what: What it starts and what that takes, in words.
            service: Its method `waits` says so.
        """
        self._asked[what] = service

    def look(self) -> None:
        """Tell what has waited for long and was not told yet."""
        now = time.monotonic()
        waiting = {
            name: f"workers of a trial ({_resources(group['bundles'].values())})"
            for name, group in placement_group_table().items()
            if group["state"] in ("PENDING", "RESCHEDULING")
        }
        answers: dict[str, Any] = {what: service.waits.remote() for what, service in list(self._asked.items())}
        waiting |= {what: what for what, answer in answers.items() if ray.get(answer, timeout=_ANSWER_SECONDS)}
        self._since = {name: self._since.get(name, now) for name in waiting}
        long = {name for name, since in self._since.items() if now - since >= self._patience}
        if self._show is not None:
            self._show(f"waiting for room on the cluster: {_listed(waiting.values())}" if waiting else "")
        if long - self._told:
            listed = _listed(waiting[name] for name in long)
            self._tell(f"waiting for room on the cluster for {self._patience:.0f} s and more: {listed}")
        self._told = long


def _listed(waiting: Iterable[str]) -> str:
    return ", ".join(what if count == 1 else f"{count} x {what}" for what, count in Counter(waiting).items())


def _resources(bundles: Any) -> str:
    total: Counter[str] = Counter()
    for bundle in bundles:
        total.update(bundle)
    return " + ".join(f"{total[name]:g} {name}" for name in ("CPU", "GPU") if total[name])
