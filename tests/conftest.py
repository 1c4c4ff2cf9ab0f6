"""Fixtures that several rooms share."""

import os
from collections.abc import Iterator
from typing import Any

import hypothesis
import pytest
import torch

from tests.small_store import make_experiment, store, stores  # noqa: F401 - fixtures
from tests.small_sweep import finished_sweep  # noqa: F401

# Machines are noisy: how long an example takes says nothing.
hypothesis.settings.register_profile("dmsae", deadline=None)
hypothesis.settings.load_profile("dmsae")
os.environ.setdefault("OMP_NUM_THREADS", "1")
if not torch.cuda.is_available():
    # Kernels are then run by Triton's interpreter; this is read when Triton is imported, by whomever.
    os.environ["TRITON_INTERPRET"] = "1"


@pytest.hookimpl(tryfirst=True)  # before xdist reads the marks
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """With several processes (pytest -n 2), tests of one Ray cluster stay in the process that has started it."""
    for item in items:
        if "ray_cluster" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.xdist_group("ray"))


@pytest.fixture(scope="session")
def ray_cluster() -> Iterator[Any]:
    """A real Ray cluster of one machine for the whole test session."""
    import ray

    if not ray.is_initialized():
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
