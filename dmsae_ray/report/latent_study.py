"""What the pages of latents need and no summary holds: where latents fire on held-out tokens, and what they promote."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import torch

from dmsae_ray.errors import ConfigError, DataError, DmsaeError
from dmsae_ray.evaluation import FiringCollector, LatentFiring
from dmsae_ray.lm import TokenText, load_tokenizer, load_unembedding
from dmsae_ray.report.latent_table import LatentRow, Progress, no_progress
from dmsae_ray.sae import LatentRows, together
from dmsae_ray.store import ACTIVATIONS, Store, read_tokens, shard_name

_BLOCK_TOKENS = 8192
_DIRECTIONS = 512
"""Decoder rows whose logits are computed at a time."""
T = TypeVar("T")


@dataclass(frozen=True)
class Wanted:
    """How much a page of a latent shows.

    Attributes:
        top: snippets of the strongest contexts.
        per_range: snippets from each quarter of the other activations.
        tokens: promoted and suppressed tokens, of each kind.
        local_only: models come from this machine alone, not from the Hub.
    """

    top: int = 12
    per_range: int = 2
    tokens: int = 15
    local_only: bool = False

    def __post_init__(self) -> None:
        for name, value, most in (("top", self.top, 100), ("per_range", self.per_range, 10)):
            if not 0 <= value <= most:
                raise ConfigError(f"{name} is {value}; it must be in 0..{most}")


@dataclass(frozen=True, eq=False)
class Picked:
    """Rows of a table that are latents of one SAE.

    Attributes:
        rows: what is known of them so far.
        latents: the same latents of the SAE, in the same order.
    """

    rows: tuple[LatentRow, ...]
    latents: LatentRows


@dataclass(frozen=True, eq=False)
class Studied:
    """What `study` found.

    Attributes:
        rows: the rows of all SAEs in their order, completed.
        text: text of the tokens; None without a tokenizer.
        tokens: held-out tokens that were looked at.
        lacks: a line for each thing that could not be had.
    """

    rows: tuple[LatentRow, ...]
    text: TokenText | None
    tokens: int
    lacks: tuple[str, ...]


def study(
    picked: Sequence[Picked],
    store: Callable[[], Store],
    about: dict[str, Any],
    wanted: Wanted,
    progress: Progress = no_progress,
) -> Studied:
    """Complete the rows of some SAEs of one model in one pass over the store; what cannot be had is left out and said.

    Args:
        picked: the latents.
        store: finds the store.
        about: what is noted with the SAEs: `model` and `revision` are used.
        wanted: how much is wanted.
        progress: told how far it is.
    """
    lacks: list[str] = []
    rows = [row for one in picked for row in one.rows]
    model, revision = about.get("model"), about.get("revision")

    def attempt(what: str, get: Callable[[], T]) -> T | None:
        try:
            return get()
        except DmsaeError as error:
            lacks.append(f"{what}: {error}")
            return None

    def named() -> str:
        if not isinstance(model, str):
            raise DataError("no language model is noted with the SAE")
        return model

    text = attempt(
        "No text of tokens",
        lambda: TokenText(load_tokenizer(named(), revision, local_only=wanted.local_only)),
    )
    firing = attempt("No snippets and histograms", lambda: firing_on(store(), picked, wanted, progress))
    if firing is not None:
        rows = [replace(row, firing=one) for row, one in zip(rows, firing, strict=True)]
    if text is not None:
        n_tokens = len(text)
        changed = attempt(
            "No promoted and suppressed tokens",
            lambda: _promoted(rows, picked, named(), revision, n_tokens, wanted, progress),
        )
        rows = rows if changed is None else changed
    return Studied(tuple(rows), text, firing[0].tokens if firing else 0, tuple(lacks))


def firing_on(
    store: Store, picked: Sequence[Picked], wanted: Wanted, progress: Progress = no_progress
) -> list[LatentFiring]:
    """Return where each picked latent fires on the held-out tokens of a store, in one pass with bounded memory.

    Raises:
        DataError: a shard is missing or damaged, or a weight is not finite.
    """
    layout = store.layout
    context, per_block = layout.context, max(1, _BLOCK_TOKENS // layout.context)
    latents = together([one.latents for one in picked])
    if not bool(torch.isfinite(latents.encoder.sum() + latents.bias.sum() + latents.centre.sum())):
        raise DataError("weights of the SAE are not finite: its training diverged")
    n = len(latents)
    collector = FiringCollector(n, top=wanted.top, per_range=wanted.per_range)
    total, done = layout.contexts["eval"] * context, 0
    progress("held-out tokens", 0, total, "tokens")
    for shard in range(layout.shards("eval")):
        name = shard_name("eval", shard)
        tokens = torch.from_numpy(read_tokens(store.folder, layout, name).tokens)
        tensors = store.read("eval", shard)
        place, order = tensors["position"].long().sort()
        for first in range(0, len(tokens), per_block):
            block = tokens[first : first + per_block]
            low, high = first * context, (first + len(block)) * context
            at = slice(*torch.searchsorted(place, torch.tensor([low, high])).tolist())
            x = tensors["x"][order[at]].float()
            if not bool(torch.isfinite(x.sum())):
                raise DataError(f"NaN or infinity in activations of {store.folder / ACTIVATIONS / name}.safetensors")
            z, known = torch.zeros(block.numel(), n), torch.zeros(block.numel(), dtype=torch.bool)
            z[place[at] - low] = latents.encode(x)
            known[place[at] - low] = True
            collector.add(z.view(*block.shape, n), known.view(block.shape), block)
            done += block.numel()
            progress("held-out tokens", done, total, "tokens")
    return collector.result()


def _promoted(
    rows: Sequence[LatentRow],
    picked: Sequence[Picked],
    model: str,
    revision: str | None,
    n_tokens: int,
    wanted: Wanted,
    progress: Progress,
) -> list[LatentRow]:
    unembedding = load_unembedding(model, revision, local_only=wanted.local_only)
    directions = torch.cat([one.latents.decoder for one in picked])
    found: list[LatentRow] = []
    for first in range(0, len(directions), _DIRECTIONS):
        ids, change = unembedding.extremes(directions[first : first + _DIRECTIONS], wanted.tokens, n_tokens)
        for row, names, values in zip(rows[first:], ids.tolist(), change.tolist(), strict=False):
            pairs, half = tuple(zip(names, values, strict=True)), len(names) // 2
            found.append(replace(row, promoted=pairs[:half], suppressed=pairs[half:]))
        progress("promoted tokens", len(found), len(directions), "latents")
    return found
