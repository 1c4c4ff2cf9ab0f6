"""The format of a store on one page: its files, and how the tokens are cut into shards.

    <stores>/<store key>/
        request.json                    what decides the content (`identity.request_of`)
        tokens/<split>-<shard>.safetensors
                                        contexts: `tokens` int32 [contexts, context], `starts` int32 [documents]
        tokens/layout.json              `Layout`; written when all tokens are written
        tokens/draft.json               progress of tokenising, until then (`harvest.cursor`)
        activations/<split>-<shard>.safetensors
                                        rows: `x` [rows, d_model], `position` int32 [rows], `g` in split 'attribution'
        activations/<split>-<shard>.json
                                        `commit.Commit`, the proof that the shard is whole
        streamed/train-<shard>.json     commits of training shards that mode 'stream' computed and did not keep
        manifest.json                   `manifest.Manifest`, when the store is complete
        partial.json                    the same for a store that was made for mode 'stream'
        heartbeat.json, failed.json     while a harvest writes, or after it failed (`writer`)
        readers/<sweep>.json            which sweeps use the store (`usage`)

All records are JSON without any time in them: the same request gives the same bytes. Layout, commits and manifests hold
a checksum of themselves (`files.encode_sealed`), so that an edited one is told from a true one.
"""

import math
from dataclasses import dataclass
from typing import Literal

from pydantic import ConfigDict, TypeAdapter, ValidationError

from dmsae_ray.config import ActivationSettings
from dmsae_ray.errors import DataError
from dmsae_ray.files import decode_sealed

FORMAT = 2
Split = Literal["eval", "attribution", "train"]
SPLITS: tuple[Split, ...] = ("eval", "attribution", "train")
"""Splits, in the order in which they take contexts of the corpus."""

TOKENS, ACTIVATIONS, STREAMED = "tokens", "activations", "streamed"
"""Subfolders of a store."""
REQUEST, MANIFEST, PARTIAL = "request.json", "manifest.json", "partial.json"
"""Files of a store."""
LAYOUT, DRAFT = "layout.json", "draft.json"
"""Files of the subfolder `TOKENS`."""


def shard_name(split: str, shard: int) -> str:
    """Return the name of a shard without its suffix: `.safetensors` for data, `.json` for its commit."""
    return f"{split}-{shard:06d}"


@dataclass(frozen=True)
class Layout:
    """How the tokens of a store are cut; written after all token shards and before any activation.

    Attributes:
        d_model: width of an activation.
        context: tokens of a context, BOS included.
        bos: token that begins a context, if the tokenizer has one.
        eos: token that ends a document, if the tokenizer has one.
        special: the tokenizer's special tokens.
        contexts_per_shard: contexts of a shard; the last shard of a split may hold fewer.
        contexts: number of contexts, by split.
        documents: number of documents packed.
        skipped: number of documents skipped as empty or corrupt.
        token_checksums: checksum of every token shard, by name.
    """

    d_model: int
    context: int
    bos: int | None
    eos: int | None
    special: tuple[int, ...]
    contexts_per_shard: int
    contexts: dict[str, int]
    documents: int
    skipped: int
    token_checksums: dict[str, str]

    __pydantic_config__ = ConfigDict(extra="forbid")

    def shards(self, split: Split) -> int:
        """Return the number of shards of a split."""
        return math.ceil(self.contexts[split] / self.contexts_per_shard)

    def shard_tokens(self, split: Split, shard: int) -> int:
        """Return the number of tokens of a shard, before filters."""
        first = shard * self.contexts_per_shard
        return (min(self.contexts[split], first + self.contexts_per_shard) - first) * self.context

    def all_shards(self) -> list[tuple[Split, int]]:
        """Return every (split, shard), in the order of the splits."""
        return [(split, shard) for split in SPLITS for shard in range(self.shards(split))]

    def norm_shards(self, norm_tokens: int) -> int:
        """Return the number of training shards behind the norm factor: `norm_tokens`, rounded up to whole shards."""
        return min(math.ceil(norm_tokens / (self.contexts_per_shard * self.context)), self.shards("train"))

    def stored_shards(self, settings: ActivationSettings) -> list[tuple[Split, int]]:
        """Return every (split, shard) to store.

        These are all shards, or in mode 'stream' all but the training shards that the norm factor does not need.
        """
        if settings.mode == "store":
            return self.all_shards()
        kept = self.norm_shards(settings.norm_tokens)
        return [(split, shard) for split, shard in self.all_shards() if split != "train" or shard < kept]


_LAYOUT = TypeAdapter(Layout)


def decode_layout(content: bytes, where: object) -> Layout:
    """Return the `Layout` that a JSON text holds.

    Args:
        content: the bytes of the file.
        where: the file, for the error message.

    Raises:
        DataError: the content is not a layout, was edited, or holds impossible values.
    """
    plain = decode_sealed(content, where)
    wrong = DataError(f"{where} is not a layout; delete it to have the tokens made again")
    try:
        layout = _LAYOUT.validate_json(plain, strict=True)
    except ValidationError:
        raise wrong from None
    if set(layout.contexts) != set(SPLITS) or min(layout.contexts.values()) < 0:
        raise wrong
    if min(layout.d_model, layout.context, layout.contexts_per_shard, layout.contexts["train"]) < 1:
        raise wrong
    return layout
