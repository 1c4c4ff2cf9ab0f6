"""How often those at work on a store say so, and how long others wait for them."""

from dataclasses import dataclass


@dataclass(frozen=True)
class StoreTiming:
    """All in seconds.

    Attributes:
        beat: between two beats of a harvest.
        silence: a harvest whose beat stands still for so long is taken for dead.
        settle: how much later than another a harvest that begins may write its first beat, and yet only one of the two
            goes on.
        poll: between two looks of a harvest that follows another.
        usage_beat: between two beats of a sweep that uses a store.
    """

    beat: float = 2.0
    silence: float = 60.0
    settle: float = 1.0
    poll: float = 1.0
    usage_beat: float = 5.0


TIMING = StoreTiming()
"""What is used unless something else is given."""
