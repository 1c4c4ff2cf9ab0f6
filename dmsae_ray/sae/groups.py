"""Which Matryoshka groups give up latents to the core, so that the dictionary keeps its size."""

from collections.abc import Sequence
from numbers import Integral
from typing import Literal, get_args

from dmsae_ray.errors import ConfigError

CoreTakes = Literal["last_group", "all_groups"]
CORE_TAKES: tuple[CoreTakes, ...] = get_args(CoreTakes)


def is_whole(value: object) -> bool:
    """Whether a value is a whole number, and no bool."""
    return isinstance(value, Integral) and not isinstance(value, bool)


def non_core_groups(
    group_sizes: Sequence[int], n_latents: int, n_core: int, takes: CoreTakes = "last_group"
) -> tuple[int, ...]:
    """Return the sizes of the groups beside a core; each keeps at least 1 latent.

    Args:
        group_sizes: sizes of the groups. They add up to n_latents - n_core, and are returned as they are, or to
            n_latents: then n_core latents are taken from them.
        n_latents: m, the core included.
        n_core: c.
        takes: 'last_group' takes them from the last group and, when that is down to one latent, from those before it;
            'all_groups' from all: each keeps 1 latent and its share of the others, rounded by largest remainders
            (ties go to the earlier group).

    Raises:
        ConfigError: the sizes are no sizes, do not add up, or the core is too large.
    """
    sizes = list(group_sizes)
    if takes not in CORE_TAKES:
        raise ConfigError(f"core_takes: {takes!r} must be one of {', '.join(CORE_TAKES)}")
    if not sizes or not all(is_whole(size) and size > 0 for size in sizes):
        raise ConfigError(f"group_sizes: {sizes} must be whole numbers, at least 1")
    if n_core and sum(sizes) == n_latents:
        if n_core > n_latents - len(sizes):
            raise ConfigError(
                f"core: {n_core} latents leave fewer than 1 of {n_latents} to each of {len(sizes)} groups"
            )
        return _of_the_last(sizes, n_core) if takes == "last_group" else _of_all(sizes, n_core)
    if sum(sizes) != n_latents - n_core:
        either = f"{n_latents}" + (f" or {n_latents - n_core}" if n_core else "")
        raise ConfigError(f"group_sizes: {sizes} add up to {sum(sizes)}, not to {either}")
    return tuple(sizes)


def _of_the_last(sizes: list[int], owed: int) -> tuple[int, ...]:
    for j in reversed(range(len(sizes))):
        given = min(owed, sizes[j] - 1)
        sizes[j] -= given
        owed -= given
    return tuple(sizes)


def _of_all(sizes: list[int], owed: int) -> tuple[int, ...]:
    others = [size - 1 for size in sizes]
    left = sum(others) - owed
    shares = [divmod(other * left, sum(others)) for other in others]
    first = sorted(range(len(sizes)), key=lambda j: -shares[j][1])[: left - sum(share for share, _ in shares)]
    return tuple(1 + share + (j in first) for j, (share, _) in enumerate(shares))
