"""Several ranks that run the same loop: the first decides, all agree, and an error on the first is raised on all."""

import pickle
import threading
from collections.abc import Callable
from typing import Any, TypeVar

import torch
import torch.distributed as dist

from dmsae_ray.sae import RankGroup

T = TypeVar("T")

HEARTBEAT_SECONDS = 5.0
"""While the first rank works alone (it measures or stores), it answers the others this often: collectives time out."""


class Ranks(RankGroup):
    """The ranks of `group`, or a single process if it is None."""

    def __init__(self, group: dist.ProcessGroup | None, device: torch.device) -> None:
        super().__init__(group)
        self.group, self.device = group, device
        self._speaks_on = device if group is not None and dist.get_backend(group) == "nccl" else torch.device("cpu")

    @property
    def first(self) -> bool:
        """Whether this rank loads, scores, evaluates and saves."""
        return self.rank == 0

    def share(self, decide: Callable[[], T]) -> T:
        """Run `decide` on the first rank, and return its result, which is pickled, on every rank.

        Raises:
            Exception: what `decide` raised, on every rank.
        """
        if self.size == 1:
            return decide()
        box: list[Any] = [None, None]
        failure: Exception | None = None
        if self.first:
            try:
                box[0] = decide()
            except Exception as error:  # every rank must know it, or the others wait forever
                failure, box[1] = error, _portable(error)
        self._broadcast(box)
        if failure is not None:
            raise failure
        if box[1] is not None:
            raise box[1]
        result: T = box[0]
        return result

    def wait_for(self, enter: Callable[[], T]) -> T | None:
        """Run `enter` on the first rank while the others wait, however long; return its result there, None elsewhere.

        Raises:
            Exception: what `enter` raised, on every rank.
        """
        if self.size == 1:
            return enter()
        if not self.first:
            while self.share(lambda: True):
                pass
            return None
        result: list[T] = []
        failure: list[Exception] = []

        def work() -> None:
            try:
                if self.device.type == "cuda":
                    torch.cuda.set_device(self.device)  # each thread has its own current device
                result.append(enter())
            except Exception as error:  # raised on every rank below
                failure.append(error)

        thread = threading.Thread(target=work, daemon=True)
        thread.start()
        while thread.is_alive():
            thread.join(HEARTBEAT_SECONDS)
            if thread.is_alive():
                self.share(lambda: True)

        def finished() -> bool:
            if failure:
                raise failure[0]
            return False

        self.share(finished)
        return result[0]

    def _broadcast(self, box: list[Any]) -> None:
        assert self.group is not None
        dist.broadcast_object_list(box, dist.get_global_rank(self.group, 0), group=self.group, device=self._speaks_on)


def _portable(error: Exception) -> Exception:
    """Return `error` if it keeps its type when pickled, otherwise a RuntimeError with the same text."""
    try:
        return error if type(pickle.loads(pickle.dumps(error))) is type(error) else RuntimeError(repr(error))
    except Exception:
        return RuntimeError(repr(error))
