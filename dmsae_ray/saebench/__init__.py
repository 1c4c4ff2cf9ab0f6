"""SAEBench's evaluations of stored SAEs, in an environment of their own.

Input: an SAE in our format on this machine, a language model's name, and which evaluation (`Job`). Output: SAEBench's
numbers (`Outcome`), or a line that says why there are none. `suite` says what each evaluation needs, `environment`
makes the environment from a lock file; what is below `inside` runs there and imports nothing of this package.
"""

from typing import TYPE_CHECKING

from dmsae_ray.lazy import face

if TYPE_CHECKING:
    from dmsae_ray.saebench.environment import environment_folder as environment_folder
    from dmsae_ray.saebench.environment import make_environment as make_environment
    from dmsae_ray.saebench.environment import ready_python as ready_python
    from dmsae_ray.saebench.job import Job as Job
    from dmsae_ray.saebench.job import Outcome as Outcome
    from dmsae_ray.saebench.job import read_outcome as read_outcome
    from dmsae_ray.saebench.job import run_job as run_job
    from dmsae_ray.saebench.suite import SUITE as SUITE
    from dmsae_ray.saebench.suite import VERSION as VERSION
    from dmsae_ray.saebench.suite import Better as Better
    from dmsae_ray.saebench.suite import Evaluation as Evaluation
    from dmsae_ray.saebench.suite import Given as Given
    from dmsae_ray.saebench.suite import Shown as Shown
    from dmsae_ray.saebench.suite import check_needs as check_needs
    from dmsae_ray.saebench.suite import check_reachable as check_reachable
    from dmsae_ray.saebench.suite import chosen as chosen

__getattr__, __dir__, __all__ = face(
    __name__,
    {
        "environment": (
            "environment_folder",
            "make_environment",
            "ready_python",
        ),
        "job": (
            "Job",
            "Outcome",
            "read_outcome",
            "run_job",
        ),
        "suite": (
            "SUITE",
            "VERSION",
            "Better",
            "Evaluation",
            "Given",
            "Shown",
            "check_needs",
            "check_reachable",
            "chosen",
        ),
    },
)
