"""Ray Tune over Ray Train: the grid, its plan, the worker of a trial and the controller of a sweep."""

from typing import TYPE_CHECKING

from dmsae_ray.lazy import face

if TYPE_CHECKING:
    from dmsae_ray.sweep.controller import SweepResult as SweepResult
    from dmsae_ray.sweep.controller import check_inputs as check_inputs
    from dmsae_ray.sweep.controller import inputs_of as inputs_of
    from dmsae_ray.sweep.controller import reason_of as reason_of
    from dmsae_ray.sweep.controller import run_sweep as run_sweep
    from dmsae_ray.sweep.controller import state_of as state_of
    from dmsae_ray.sweep.session import DRIVER_CPUS as DRIVER_CPUS
    from dmsae_ray.sweep.session import ray_session as ray_session

__getattr__, __dir__, __all__ = face(
    __name__,
    {
        "controller": (
            "SweepResult",
            "check_inputs",
            "inputs_of",
            "reason_of",
            "run_sweep",
            "state_of",
        ),
        "session": (
            "DRIVER_CPUS",
            "ray_session",
        ),
    },
)
