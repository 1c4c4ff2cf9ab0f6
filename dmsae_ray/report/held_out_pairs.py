"""Held-out activations on which two SAEs are compared: of one store, or the same tokens in two."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from dmsae_ray.errors import DataError

if TYPE_CHECKING:
    from dmsae_ray.store import Store

_BLOCK = 8192

Pairs = Iterator[tuple[Tensor, Tensor]]


def held_out_pairs(mine: "Store", theirs: "Store", tokens: int) -> Pairs:
    """Return activations of the same held-out tokens from two stores, such as those of two layers.

    Only tokens that the filters of both kept are used.

    Args:
        mine: the one store.
        theirs: the other; it may be the same.
        tokens: at most so many.

    Returns:
        Blocks, float32 [n, d] of each store.

    Raises:
        DataError: the stores hold other held-out tokens.
    """
    if mine.folder.uri == theirs.folder.uri:
        return _of_one(mine, tokens)
    if not torch.equal(mine.eval_tokens(), theirs.eval_tokens()):
        raise DataError(f"stores {mine.key[:16]} and {theirs.key[:16]} hold other held-out tokens")
    return _of_two(mine, theirs, tokens)


def _of_two(mine: "Store", theirs: "Store", tokens: int) -> Pairs:
    places = (mine.eval_kept() & theirs.eval_kept()).flatten().nonzero().flatten()[:tokens]
    for part in torch.split(places, _BLOCK):
        yield mine.eval_rows(part), theirs.eval_rows(part)


def _of_one(store: "Store", tokens: int) -> Pairs:
    left = tokens
    for shard in range(store.layout.shards("eval")):
        x = store.read("eval", shard)["x"][:left].float()
        left -= len(x)
        for block in torch.split(x, _BLOCK):
            yield block, block
        if left <= 0:
            return
