"""Tells a person what waits for room on the cluster: a Ray cluster that has none says nothing."""

import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from types import TracebackType
from typing import Any

import ray
from ray.exceptions import RayError
from ray.util import placement_group_table

POLL_SECONDS = 5.0
PATIENCE_SECONDS = 30.0
"""What waits longer is told."""
_END_SECONDS = 2.0


class Waiting:
    """Context in which a thread looks which workers of trials wait for nodes, and the language model.

    Args:
        tell: Called from the thread with a line when something has waited for `patience_seconds`, and again when more
            has.
        poll_seconds: Seconds between two looks.
        patience_seconds: How long a wait is not worth a word.
    """

    def __init__(
        self,
        tell: Callable[[str], None],
        poll_seconds: float = POLL_SECONDS,
        patience_seconds: float = PATIENCE_SECONDS,
    ) -> None:
        self._tell, self._poll, self._patience = tell, poll_seconds, patience_seconds
        self._since: dict[str, float] = {}
        self._told: set[str] = set()
        self._asked: dict[str, Any] = {}
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._run, name="dmsae-waiting", daemon=True)

    def __enter__(self) -> "Waiting":
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end.set()
        self._thread.join(_END_SECONDS)

    def ask(self, what: str, answer: Any) -> None:
        """Look whether an actor has begun, by the reference to its answer to a first call.

        Args:
            what: The actor and what it asks for, in words.
            answer: The reference.
        """
        self._asked[what] = answer

    def _run(self) -> None:
        while not self._end.wait(self._poll):
            with suppress(RayError, ConnectionError, RuntimeError):  # the head does not answer, or the session ends
                self._look(time.monotonic())

    def _look(self, now: float) -> None:
        waiting = {
            name: f"workers of a trial ({_resources(group['bundles'].values())})"
            for name, group in placement_group_table().items()
            if group["state"] in ("PENDING", "RESCHEDULING")
        }
        waiting |= {what: what for what, answer in list(self._asked.items()) if not ray.wait([answer], timeout=0)[0]}
        self._since = {name: self._since.get(name, now) for name in waiting}
        long = {name for name, since in self._since.items() if now - since >= self._patience}
        if long - self._told:
            counts = Counter(waiting[name] for name in long)
            parts = [what if count == 1 else f"{count} x {what}" for what, count in counts.items()]
            self._tell(f"waiting for room on the cluster for {self._patience:.0f} s and more: {', '.join(parts)}")
        self._told = long


def _resources(bundles: Any) -> str:
    total: Counter[str] = Counter()
    for bundle in bundles:
        total.update(bundle)
    return " + ".join(f"{total[name]:g} {name}" for name in ("CPU", "GPU") if total[name])
