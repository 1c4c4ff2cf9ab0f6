"""The command line: the commands of `dmsae`, and what a person sees while they run.

In: the arguments of a command, and the experiment file or folder that they name.
Out: lines and bars on the terminal, the files that the rooms below write, and an exit code (see `exit_codes`).
Errors that a user can fix are printed as one line. No other room imports this one.
"""

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
