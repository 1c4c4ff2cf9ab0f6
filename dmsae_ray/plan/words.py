"""Numbers of a plan in words."""

from collections.abc import Sequence

from dmsae_ray.plan.capacity import Bundle


def totals_text(bundles: Sequence[Bundle]) -> str:
    """The sum of what processes are given: '4.15 CPU + 1.5 GPU'."""
    return f"{sum(b.cpus * b.count for b in bundles):g} CPU + {sum(b.gpus * b.count for b in bundles):g} GPU"


def bundles_text(bundles: Sequence[Bundle]) -> str:
    """What processes are given, the sum first."""
    return f"{totals_text(bundles)} = {' + '.join(str(b) for b in bundles)}"


def many(count: int, noun: str) -> str:
    """A number and its noun: '1 trial', '2 trials'."""
    return f"{count} {noun}{'' if count == 1 else 's'}"


def count_text(count: float) -> str:
    """A large number with three digits: '500M', '1.2B'."""
    for size, unit in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k")):
        if count >= size:
            return f"{count / size:.3g}{unit}"
    return f"{count:g}"


def bytes_text(count: float) -> str:
    """A number of bytes with three digits: '2.3 TB'."""
    for size, unit in ((1e12, "TB"), (1e9, "GB"), (1e6, "MB")):
        if count >= size:
            return f"{count / size:.3g} {unit}"
    return f"{count / 1e3:.3g} kB"


def hours_text(hours: float) -> str:
    """A time in hours, or in minutes where it is below one hour."""
    return f"{hours:.3g} h" if hours >= 1 else f"{hours * 60:.2g} min"
