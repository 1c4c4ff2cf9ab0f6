"""Held-out activations on which two SAEs are compared: of one store, or the same tokens in two."""

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from dmsae_ray.errors import DataError, DmsaeError
from dmsae_ray.files import Folder
from dmsae_ray.report.latent_source import find_store

if TYPE_CHECKING:
    from dmsae_ray.store import Store

_BLOCK = 8192

Pairs = Iterator[tuple[Tensor, Tensor]]


def read_by(about: Mapping[str, Any]) -> tuple[object, ...]:
    """Return what is noted of the activations that an SAE was trained on: model, layer and store."""
    return tuple(about.get(name) for name in ("model", "layer", "store"))


class HeldOut:
    """The held-out activations on which sets are compared with SAEs, by the stores of both.

    Args:
        output: the output of the sets.
        given: folder of their store; None: the one noted with their SAEs.
        tokens: at most so many; 0: none are compared.
        lacks: gets a line for what cannot be had.
    """

    def __init__(self, output: Folder, given: str | None, tokens: int, lacks: list[str]) -> None:
        self._output, self._given, self._tokens, self._lacks = output, given, tokens, lacks
        self._stores: dict[object, Store | None] = {}

    def pairs(self, mine: Mapping[str, Any], theirs: Mapping[str, Any], output: Folder, width: int) -> Pairs | None:
        """Return activations for both; None, with a line, where there are none.

        An SAE of the same layer of the same model reads what the set reads, whatever it was trained on. One of another
        layer reads the same tokens there.

        Args:
            mine: what is noted with the set's SAE.
            theirs: what is noted with the other SAE.
            output: the output of the other SAE.
            width: d of both.
        """
        own = self._store(mine, self._output, self._given, width) if self._tokens else None
        if own is None:
            return None
        if read_by(mine)[:2] == read_by(theirs)[:2]:
            return held_out_pairs(own, own, self._tokens)
        other = self._store(theirs, output, None, width)
        try:
            return None if other is None else held_out_pairs(own, other, self._tokens)
        except DataError as error:
            self._tell(f"activations are not compared with SAEs of layer {theirs.get('layer')}: {error}")
            return None

    def _tell(self, line: str) -> None:
        if line not in self._lacks:
            self._lacks.append(line)

    def _store(self, about: Mapping[str, Any], output: Folder, given: str | None, width: int) -> "Store | None":
        what = (output.uri, *read_by(about))
        if what not in self._stores:
            try:
                self._stores[what] = find_store(output, dict(about), width, given)
            except DmsaeError as error:
                self._stores[what] = None
                self._tell(f"activations are not compared: {error}")
        return self._stores[what]


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
