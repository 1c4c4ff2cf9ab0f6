"""Timing of heartbeats at a store: how often they are written, and how long others wait for them."""

from dataclasses import dataclass


@dataclass(frozen=True)
class StoreTiming:
    """Times in seconds.

    Attributes:
        beat: time between two beats of a harvest.
        silence: a harvest whose beat has not changed for so long is taken for dead.
        settle: if two harvests start, and the first beat of one is at most so much later than that of the other, only
            one of the two continues.
        poll: time between two looks of a harvest that follows another.
        usage_beat: time between two beats of a sweep that uses a store.
    """

    beat: float = 2.0
    silence: float = 60.0
    settle: float = 1.0
    poll: float = 1.0
    usage_beat: float = 5.0


TIMING = StoreTiming()
"""The default timing."""
