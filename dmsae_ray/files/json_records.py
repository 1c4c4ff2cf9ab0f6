"""Records as JSON: always written in the same form, and checked when they are read."""

import json
import math
from dataclasses import asdict
from typing import Any

from dmsae_ray.errors import DataError
from dmsae_ray.files.checksums import checksum

_SEAL = "record_checksum"


def encode_record(record: Any) -> bytes:
    """Return a dataclass or a mapping as canonical JSON: the keys are sorted, so equal records are equal bytes."""
    tree = record if isinstance(record, dict) else asdict(record)
    return (json.dumps(tree, sort_keys=True, indent=1) + "\n").encode()


def decode_record(content: bytes, where: object) -> dict[str, Any]:
    """Return the mapping that a JSON file holds.

    Args:
        content: the bytes of the file.
        where: the file, for the error message.

    Raises:
        DataError: the content is truncated, or is not a JSON mapping.
    """
    try:
        tree = json.loads(content)
    except ValueError:
        tree = None
    if not isinstance(tree, dict):
        raise DataError(f"{where} is truncated or not JSON; delete it to have it made again")
    return tree


def encode_sealed(record: Any) -> bytes:
    """Return a dataclass or a mapping as `encode_record` does, with a checksum of all the rest of it."""
    tree = record if isinstance(record, dict) else asdict(record)
    return encode_record({**tree, _SEAL: checksum(encode_record(tree))})


def decode_sealed(content: bytes, where: object) -> bytes:
    """Return the JSON without the checksum of `encode_sealed`. A file that has none is older, and is not checked.

    Args:
        content: the bytes of the file.
        where: the file, for the error message.

    Raises:
        DataError: the content is not a JSON mapping, or is not what the checksum is of.
    """
    tree = decode_record(content, where)
    if _SEAL not in tree:
        return content
    seal, rest = tree.pop(_SEAL), encode_record(tree)
    if seal != checksum(rest):
        raise DataError(
            f"{where} was edited or damaged after it was written: it does not have its own checksum; delete it and "
            "harvest again to have it made"
        )
    return rest


def nan_to_null(tree: Any) -> Any:
    """Return the tree with None for each number that is not finite, as JSON has none; dataclasses become mappings."""
    if isinstance(tree, float):
        return tree if math.isfinite(tree) else None
    if hasattr(tree, "__dataclass_fields__"):
        return {name: nan_to_null(getattr(tree, name)) for name in tree.__dataclass_fields__}
    if isinstance(tree, dict):
        return {str(name): nan_to_null(value) for name, value in tree.items()}
    if isinstance(tree, list | tuple):
        return [nan_to_null(value) for value in tree]
    return tree
