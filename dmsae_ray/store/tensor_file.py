"""Safetensors files as tensors over the memory of the file: the bytes that were checked are the bytes that are used."""

import json
import math
import mmap
import warnings

import torch
from torch import Tensor

from dmsae_ray.errors import DataError, one_line

_DTYPES = {
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I8": torch.int8,
}


def map_file(descriptor: int) -> mmap.mmap:
    """Return a private mapping of an open file that is not empty; writing to it changes no file."""
    return mmap.mmap(descriptor, 0, access=mmap.ACCESS_COPY)


def tensors_in(content: mmap.mmap | memoryview, where: object) -> dict[str, Tensor]:
    """Return the tensors of a safetensors file in memory, without a copy; they keep the memory alive.

    If the memory is read-only, nobody must write to the tensors.

    Args:
        content: the bytes of the file.
        where: the file, for the error message.

    Raises:
        DataError: the header is not that of a safetensors file, or points outside the file; the message names `where`.
    """
    try:
        begin = 8 + int.from_bytes(content[:8], "little")
        header = json.loads(bytes(content[8:begin]))
        return {name: _tensor(content, begin, entry) for name, entry in header.items() if name != "__metadata__"}
    except (ValueError, KeyError, TypeError, AttributeError, RuntimeError, IndexError) as error:
        raise DataError(f"{where} is not a safetensors file that can be read: {one_line(error)}") from None


def _tensor(content: mmap.mmap | memoryview, begin: int, entry: dict[str, object]) -> Tensor:
    dtype, shape = _DTYPES[str(entry["dtype"])], [int(n) for n in entry["shape"]]  # type: ignore[attr-defined]
    first, last = (int(n) for n in entry["data_offsets"])  # type: ignore[attr-defined]
    count = math.prod(shape)
    if last - first != count * dtype.itemsize or begin + last > len(content) or min(first, count) < 0:
        raise ValueError("a tensor does not fit its place")
    if count == 0:
        return torch.empty(shape, dtype=dtype)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The given buffer is not writable")
        return torch.frombuffer(content, dtype=dtype, count=count, offset=begin + first).view(shape)
