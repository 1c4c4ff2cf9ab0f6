"""Progress of a harvest."""

import time
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class HarvestProgress:
    """A state of the work.

    Attributes:
        stage: 'tokens' (tokenising) or 'activations'.
        done: tokens that are done.
        total: tokens of the whole stage.
        tokens_per_s: rate since this stage began in this process; tokens that were done before do not count.
        bytes: bytes that this process wrote in this stage.
    """

    stage: str
    done: int
    total: int
    tokens_per_s: float
    bytes: int

    @property
    def eta_s(self) -> float:
        """Seconds left at this rate."""
        return (self.total - self.done) / self.tokens_per_s if self.tokens_per_s > 0 else float("inf")


class Meter:
    """Adds up the work and reports it to a callback.

    Args:
        stage: 'tokens' or 'activations'.
        total: tokens of the whole stage.
        callback: called with each new state; None: nothing is reported.
        done: tokens that were done before.
    """

    def __init__(self, stage: str, total: int, callback: Callable[[HarvestProgress], None] | None, done: int = 0):
        self.stage, self.total, self.callback = stage, total, callback
        self._found, self._done, self._bytes = done, done, 0
        self._began = time.monotonic()
        self.add(0, 0)

    def add(self, tokens: int, written: int) -> None:
        """Add tokens that are done and bytes that were written."""
        self._done += tokens
        self._bytes += written
        if self.callback is not None:
            seconds = max(time.monotonic() - self._began, 1e-9)
            rate = (self._done - self._found) / seconds
            self.callback(HarvestProgress(self.stage, self._done, self.total, rate, self._bytes))
