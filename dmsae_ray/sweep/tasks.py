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
    function: Callable[..., T], work: Sequence[tuple[Any, ...]], *, cpus: float = 1.0, gpus: float = 0.0
) -> Iterator[tuple[int, T]]:
    """Yield (number, result) of function(*arguments) for each of `work`, as they finish, in the current Ray session.

    On a cluster all are asked for at once, so that an autoscaler sees what is needed; on this machine as many at a time
    as there are CPUs. Ray runs a task again whose machine is lost. Leaving the iterator early cancels the rest.

    Args:
        function: can be sent to another process, as its arguments and results.
        work: the arguments of each call.
        cpus: CPUs of a call; whole ones are also the threads of its numeric libraries.
        gpus: GPUs of a call; a fraction shares one.

    Raises:
        DmsaeError: a call raised it.
        TransientError: a call was lost, and its repetitions too.
    """
    import ray
    from ray.exceptions import RayError, RayTaskError

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
                    yield number, ray.get(reference)
                except RayTaskError as error:
                    if isinstance(error.cause, DmsaeError):
                        raise error.cause from None
                    raise
                except RayError as error:
                    lost = f"a task was lost, and {RETRIES} repetitions too"
                    raise TransientError(f"{lost} ({type(error).__name__}: {one_line(error, 200)})") from None
    finally:
        for reference in running:
            ray.cancel(reference, force=True)
