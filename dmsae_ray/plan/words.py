"""The numbers of a plan as text."""

from collections.abc import Sequence

from dmsae_ray.plan.capacity import Bundle


def totals_text(bundles: Sequence[Bundle]) -> str:
    """Return the sum of the resources of all processes: '4.15 CPU + 1.5 GPU'."""
    return f"{sum(b.cpus * b.count for b in bundles):g} CPU + {sum(b.gpus * b.count for b in bundles):g} GPU"


def bundles_text(bundles: Sequence[Bundle]) -> str:
    """Return the resources of all processes, the sum first."""
    return f"{totals_text(bundles)} = {' + '.join(str(b) for b in bundles)}"


def many(count: int, noun: str) -> str:
    """Return a number and its noun: '1 trial', '2 trials'."""
    return f"{count} {noun}{'' if count == 1 else 's'}"


def count_text(count: float) -> str:
    """Return a large number with three digits: '500M', '1.2B'."""
    for size, unit in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k")):
        if count >= size:
            return f"{count / size:.3g}{unit}"
    return f"{count:g}"


def bytes_text(count: float) -> str:
    """Return a number of bytes with three digits: '2.3 TB'."""
    for size, unit in ((1e12, "TB"), (1e9, "GB"), (1e6, "MB")):
        if count >= size:
            return f"{count / size:.3g} {unit}"
    return f"{count / 1e3:.3g} kB"


def hours_text(hours: float) -> str:
    """Return a time in hours, or in minutes if it is below one hour."""
    return f"{hours:.3g} h" if hours >= 1 else f"{hours * 60:.2g} min"
