"""The commit of a shard: the proof that it is whole, written after it."""

import math
from dataclasses import dataclass

from pydantic import ConfigDict, TypeAdapter, ValidationError

from dmsae_ray.errors import DataError
from dmsae_ray.files import decode_sealed


@dataclass(frozen=True)
class Commit:
    """The proof that a shard is whole; written after it.

    Attributes:
        rows: number of activations kept.
        tokens: number of tokens before filters.
        dropped: number of tokens left out, by reason.
        sum_squares: sum of the squared norms of the stored rows, float64.
        d_model: width of an activation.
        checksum: checksum of the file (see `files.checksum`).
        bytes: size of the file.
    """

    rows: int
    tokens: int
    dropped: dict[str, int]
    sum_squares: float
    d_model: int
    checksum: str
    bytes: int

    __pydantic_config__ = ConfigDict(extra="forbid")


_COMMIT = TypeAdapter(Commit)


def decode_commit(content: bytes, where: object) -> Commit:
    """Return the `Commit` that a JSON text holds.

    Args:
        content: the bytes of the file.
        where: the file, for the error message.

    Raises:
        DataError: the content is not a commit, or was edited.
    """
    plain = decode_sealed(content, where)
    try:
        return _COMMIT.validate_json(plain, strict=True)
    except ValidationError:
        raise DataError(f"{where} is not a commit record; delete it to have the shard made again") from None


def norm_factor(commits: list[Commit]) -> float:
    """Return the root mean square norm over whole shards, in float64: sqrt(sum ||x||^2 / rows).

    Raises:
        DataError: the shards have no row with a norm above 0.
    """
    rows = sum(commit.rows for commit in commits)
    squares = math.fsum(commit.sum_squares for commit in commits)
    if rows == 0 or not squares > 0:
        raise DataError("the activation store's first shards hold no rows with a norm above 0 for the norm factor")
    return math.sqrt(squares / rows)
