"""Assumed speeds, each with where the number comes from: of computing, and of reading a store."""

from dataclasses import dataclass

from dmsae_ray.config import Experiment


@dataclass(frozen=True)
class Rate:
    """An assumed speed of computing.

    Attributes:
        flops_per_second: The speed of one unit.
        unit: What the speed is of: a GPU, or a CPU core.
        source: Where the number comes from.
    """

    flops_per_second: float
    unit: str
    source: str


GPU_RATE = Rate(
    1.4e14, "GPU", "40% of the 3.62e14 FLOP/s of an L40S in dense bfloat16; an H200 is about 2.7 times that"
)
CPU_RATE = Rate(4e10, "CPU core", "float32 on one core, as measured on the tiny model's SAEs")


def rate_of(experiment: Experiment) -> Rate:
    """Return GPU_RATE where workers have GPUs, CPU_RATE otherwise."""
    return GPU_RATE if experiment.resources.gpus_per_worker else CPU_RATE


@dataclass(frozen=True)
class ReadRate:
    """An assumed speed at which one worker reads a store.

    Attributes:
        bytes_per_second: The speed.
        source: Where the number comes from.
    """

    bytes_per_second: float
    source: str


FROM_BUCKET = ReadRate(16 * 60e6, "960 MB/s from a bucket, over 16 connections")
FROM_DISK = ReadRate(1e9, "1 GB/s from a disk")


def reading_of(output: str) -> ReadRate:
    """Return the assumed speed for the folder or URI of `output`."""
    return FROM_BUCKET if "://" in output and not output.startswith("file://") else FROM_DISK
