"""Independent pieces of work as Ray tasks: each result is told as it comes, a lost machine's pieces are run again."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

from dmsae_ray.config import usable_cpus
from dmsae_ray.errors import DmsaeError, TransientError, one_line
from dmsae_ray.sweep.session import borrowed_cpus

T = TypeVar("T")
RETRIES = 10
"""How often Ray runs a task again whose process or machine was lost; one that always ends its process must end, too."""


def run_tasks(
    function: Callable[..., T],
    work: Sequence[tuple[Any, ...]],
    *,
    cpus: float = 1.0,
    gpus: float = 0.0,
    instead: Callable[[DmsaeError], T] | None = None,
) -> Iterator[tuple[int, T]]:
    """Yield (number, result) of function(*arguments) for each of `work`, as they finish, in the current Ray session.

    On a cluster all are asked for at once, so that an autoscaler sees what is needed; on this machine as many at a time
    as there are CPUs. Ray runs a task again whose machine is lost. Leaving the iterator early cancels the rest.

    Args:
        function: can be sent to another process, as its arguments and results.
        work: the arguments of each call.
        cpus: CPUs of a call; whole ones are also the threads of its numeric libraries.
        gpus: GPUs of a call; a fraction shares one.
        instead: what stands for the result of a call that raised an error or was lost; None raises the error.

    Raises:
        DmsaeError: a call raised it.
        TransientError: a call was lost, and its repetitions too.
    """
    import ray
    from ray.exceptions import RayError

    remote: Any = ray.remote(function).options(
        num_cpus=cpus, num_gpus=gpus, max_retries=RETRIES, retry_exceptions=False
    )
    at_once = max(1, int(usable_cpus() // max(cpus, 1))) if borrowed_cpus() else len(work)
    waiting = list(enumerate(work))
    running: dict[Any, int] = {}
    try:
        while waiting or running:
            while waiting and len(running) < at_once:
                number, arguments = waiting.pop(0)
                running[remote.remote(*arguments)] = number
            done, _ = ray.wait(list(running), num_returns=1)
            for reference in done:
                number = running.pop(reference)
                try:
                    result = ray.get(reference)
                except RayError as error:
                    failure = _told(error)
                    if failure is None:
                        raise
                    if instead is None:
                        raise failure from None
                    result = instead(failure)
                yield number, result
    finally:
        for reference in running:
            ray.cancel(reference, force=True)


def _told(error: Exception) -> DmsaeError | None:
    """Return what a person is told of an error of Ray; None where the call raised an error that is none of ours."""
    from ray.exceptions import RayTaskError

    if isinstance(error, RayTaskError):
        return error.cause if isinstance(error.cause, DmsaeError) else None
    lost = f"a task was lost, and {RETRIES} repetitions too"
    return TransientError(f"{lost} ({type(error).__name__}: {one_line(error, 200)})")
