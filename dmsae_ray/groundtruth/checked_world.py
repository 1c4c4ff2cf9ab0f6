"""Worlds of a user's own: what they must keep to, and answers that are checked each time."""

import traceback
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dmsae_ray.errors import ConfigError, DmsaeError, one_line
from dmsae_ray.groundtruth.world import World

TOKENS = 1024
"""Tokens by which a world is checked before it is used."""
MEMBERS = ("fingerprint", "features", "domains", "draw", "logits")


class CheckedWorld:
    """A world whose every answer is checked; whatever else it has can be asked for too.

    Args:
        world: the world.

    Raises:
        ConfigError: here or in a later call: it does not keep to `World`, or its code raises; the message says in what.
    """

    def __init__(self, world: World) -> None:
        missing = [name for name in MEMBERS if not hasattr(world, name)]
        if missing:
            raise ConfigError(f"world: it has no {' and no '.join(missing)}; see dmsae_ray.groundtruth.World")
        self._world = world
        self.fingerprint: str = world.fingerprint
        self.domains: int = world.domains
        self.features: Tensor = _float32("world.features", world.features)
        if not isinstance(self.fingerprint, str):
            raise ConfigError(f"world.fingerprint: {self.fingerprint!r} must be a text")
        if not isinstance(self.domains, int) or self.domains < 1:
            raise ConfigError(f"world.domains: {self.domains!r} must be a whole number, at least 1")
        shape = tuple(self.features.shape)
        if len(shape) != 2 or 0 in shape or not _finite(self.features):
            raise ConfigError(f"world.features: shape {shape} must be [F, d_model], all of them finite")
        norms = self.features.norm(dim=1)
        if not torch.allclose(norms, torch.ones_like(norms), atol=1e-3):
            low, high = float(norms.min()), float(norms.max())
            raise ConfigError(f"world.features: norms from {low:.3g} to {high:.3g} must be 1")

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name == "_world":  # asked for while a copy is made
            raise AttributeError(name)
        return getattr(self._world, name)

    def draw(self, tokens: int, seed: int) -> tuple[Tensor, Tensor]:
        """Return x [tokens, d_model] and a [tokens, F]; see `World`."""
        answer = self._asked("draw", tokens, seed)
        if not isinstance(answer, tuple | list) or len(answer) != 2:
            raise ConfigError(f"world.draw: {type(answer).__name__} must be a pair, x and a")
        x, a = (_float32(f"world.draw: {name}", value) for name, value in zip("xa", answer, strict=True))
        n_features, width = self.features.shape
        if x.shape != (tokens, width) or a.shape != (tokens, n_features):
            raise ConfigError(
                f"world.draw: x {tuple(x.shape)} and a {tuple(a.shape)} must be [tokens, {width}] and "
                f"[tokens, {n_features}], for {tokens} tokens"
            )
        for name, value in (("x", x), ("a", a)):
            if not _finite(value):
                token = int((~torch.isfinite(value)).any(dim=1).nonzero()[0])
                raise ConfigError(
                    f"world.draw: {name} is NaN or infinite at token {token} of {tokens}; it must be finite"
                )
        if float(a.min()) < 0:
            raise ConfigError(f"world.draw: a goes down to {float(a.min()):.3g}; it must not be below 0")
        return x, a

    def logits(self, x: Tensor, domain: int) -> Tensor:
        """Return [n, classes]; see `World`."""
        logits = _float32("world.logits", self._asked("logits", x, domain))
        if logits.ndim != 2 or len(logits) != len(x) or logits.shape[1] < 2:
            raise ConfigError(
                f"world.logits: shape {tuple(logits.shape)} must be [{len(x)}, classes], 2 or more classes"
            )
        if not _finite(logits) and _finite(x):
            raise ConfigError(f"world.logits: NaN or infinite at {len(x)} tokens that are finite; it must be finite")
        if x.requires_grad and torch.is_grad_enabled() and not logits.requires_grad:
            raise ConfigError("world.logits: it is not differentiable in x; it must be, without detach and no_grad")
        return logits

    def _asked(self, name: str, *arguments: Any) -> Any:
        try:
            return getattr(self._world, name)(*arguments)
        except DmsaeError:
            raise
        except Exception as error:  # the code of a user
            raise ConfigError(f"world.{name}: {raised(error)}") from error


def check_world(world: World) -> CheckedWorld:
    """Return a world that is known to keep to `World` on some tokens, and is checked wherever it is used.

    Raises:
        ConfigError: it does not keep to it; the message says in what.
    """
    checked = CheckedWorld(world)
    x = checked.draw(TOKENS, 0)[0]
    if not torch.equal(x, checked.draw(TOKENS, 0)[0]):
        raise ConfigError("world.draw: two calls with one seed differ; draw from a generator of that seed")
    for domain in range(checked.domains):
        with torch.enable_grad():
            checked.logits(x.clone().requires_grad_(), domain)
    return checked


def raised(error: Exception) -> str:
    """Return in one line what the code of a user raised, and where."""
    places = traceback.extract_tb(error.__traceback__)
    where = f" ({Path(places[-1].filename).name}, line {places[-1].lineno})" if places else ""
    return f"{type(error).__name__}: {one_line(error)}{where}"


def _float32(what: str, value: Any) -> Tensor:
    if not isinstance(value, Tensor):
        raise ConfigError(f"{what}: {type(value).__name__} must be a torch tensor, float32")
    if value.dtype != torch.float32:
        raise ConfigError(f"{what}: {str(value.dtype).removeprefix('torch.')} must be float32")
    if value.device.type != "cpu":
        raise ConfigError(f"{what}: it is on '{value.device.type}'; it must be on 'cpu'")
    return value


def _finite(value: Tensor) -> bool:
    return bool(torch.isfinite(value).all())
