"""Fixtures that several rooms share."""

import os
from collections.abc import Iterator
from typing import Any

import hypothesis
import pytest
import torch

from dmsae_ray.config.environment import ON_THIS_MACHINE, set_environment

set_environment(verbose=False)  # what Ray's processes need, before anything imports Ray

from tests.small_store import make_experiment, store, stores  # noqa: E402, F401 - fixtures
from tests.small_sweep import dmsae_here, finished_sweep  # noqa: E402, F401

# Machines are noisy: how long an example takes says nothing.
hypothesis.settings.register_profile("dmsae", deadline=None)
hypothesis.settings.load_profile("dmsae")
os.environ.setdefault("OMP_NUM_THREADS", "1")  # of processes that tests start
# Threads of torch wait for each other in a loop; where other processes have the cores, this takes most of the time.
torch.set_num_threads(1)
if not torch.cuda.is_available():
    # Kernels are then run by Triton's interpreter; this is read when Triton is imported, by whomever.
    os.environ["TRITON_INTERPRET"] = "1"


_OF_FILE = {
    "lm/test_tiny.py": 9,
    "sweep/test_overlap.py": 8,
    "sweep/test_lost_machines.py": 7,
    "sweep/test_object_store.py": 7,
    "sweep/test_sweep.py": 6,
    "feed/": 5,
    "harvest/": 4,
    "sweep/": 3,
    "store/": 2,
}
"""Which files take long; the longest begin first, so that no process waits for the other at the end."""


def pytest_configure(config: pytest.Config) -> None:
    """With several processes (pytest -n 2), give each only some tests at a time, so that both have long ones."""
    if getattr(config.option, "maxschedchunk", ...) is None:
        config.option.maxschedchunk = 2


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests of a Ray cluster, and let long ones begin first."""
    for item in items:
        if "ray_cluster" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.ray)
    items.sort(key=lambda item: -_length(item))


def _length(item: pytest.Item) -> int:
    return next((rank for part, rank in _OF_FILE.items() if f"/tests/{part}" in item.path.as_posix()), 0)


@pytest.fixture(autouse=True)
def usual_patience() -> Iterator[None]:
    """What a test calls in this process may be made for a process of its own, and wait hours for a storage."""
    from dmsae_ray.files import START_SECONDS, patience

    with patience(START_SECONDS):
        yield


@pytest.fixture(scope="session")
def ray_cluster() -> Iterator[Any]:
    """A real Ray cluster of one machine for all tests of this process."""
    import ray

    os.environ.update(ON_THIS_MACHINE)
    ray.init(
        address="local",
        num_cpus=4,
        include_dashboard=False,
        log_to_driver=False,
        object_store_memory=300_000_000,
        configure_logging=False,
    )
    yield ray
    ray.shutdown()
