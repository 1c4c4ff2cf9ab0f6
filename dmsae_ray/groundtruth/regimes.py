"""The standard worlds: how the importance of features relates to their frequency."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from dmsae_ray.errors import ConfigError
from dmsae_ray.groundtruth.world import PlantedWorld, World, WorldSettings


@dataclass(frozen=True)
class Regime:
    """A kind of world.

    Attributes:
        name: its name.
        about: what is special, in one line.
        make: makes the world of a seed.
        transfer: also train fresh SAEs around the distilled core (Algorithm 3).
    """

    name: str
    about: str
    make: Callable[[int], World]
    transfer: bool = False


@dataclass(frozen=True)
class _Planted:
    """Makes planted worlds that differ in their seed; as an object, so that it can be sent to another process."""

    settings: WorldSettings

    def __call__(self, seed: int) -> World:
        return PlantedWorld(replace(self.settings, seed=seed))


def _regime(name: str, about: str, *, transfer: bool = False, **changes: Any) -> Regime:
    return Regime(name, about, _Planted(WorldSettings(seed=0, **changes)), transfer)


DOMAINS = 4
"""Losses of the regime 'domains': one for each cycle of the standard benchmark."""

REGIMES = {
    regime.name: regime
    for regime in (
        _regime("pos", "what matters is frequent: causal among the 64 most frequent features", transfer=True),
        _regime("indep", "importance is independent of frequency", causal_ranks=(0, 256)),
        _regime("neg", "what matters is rare: causal below the 64 most frequent", causal_ranks=(64, 256)),
        _regime("small_d", "as pos, with half of the width: more superposition", d_model=64),
        _regime(
            "domains",
            "each cycle is scored on another loss; half of the causal features matter to all of them",
            n_causal=36,
            n_shared=18,
            n_own=6,
            domains=DOMAINS,
        ),
    )
}


def chosen_regimes(names: list[str]) -> list[Regime]:
    """Return the regimes of these names.

    Raises:
        ConfigError: a name is unknown or there twice.
    """
    for name in names:
        if name not in REGIMES:
            raise ConfigError(f"regimes: {name!r} is unknown; known are {', '.join(REGIMES)}")
    if len(set(names)) != len(names) or not names:
        raise ConfigError(f"regimes: {names} must name at least one, each once")
    return [REGIMES[name] for name in names]
