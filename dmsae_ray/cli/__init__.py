"""The command line and what a person sees while it runs."""

from typing import TYPE_CHECKING

from dmsae_ray.lazy import face

if TYPE_CHECKING:
    from dmsae_ray.cli.commands import demo_experiment as demo_experiment
    from dmsae_ray.cli.commands import main as main

__getattr__, __dir__, __all__ = face(
    __name__,
    {
        "commands": (
            "demo_experiment",
            "main",
        ),
    },
)
