"""The language model of Ray tasks: a process loads it once and keeps it for the tasks that it runs afterwards."""

from functools import lru_cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dmsae_ray.lm import Tap


@lru_cache(maxsize=1)
def kept_tap(model: str) -> "Tap":
    """Return the whole language model, tapped.

    Args:
        model: a `config.ModelSettings`, as JSON.
    """
    from dmsae_ray.config import ModelSettings
    from dmsae_ray.harvest import open_tap

    return open_tap(ModelSettings.model_validate_json(model), full=True)
