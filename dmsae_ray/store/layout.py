"""The format of a store on one page: which files there are, and how the tokens are cut into shards.

    <stores>/<store key>/
        request.json                    what decides the content (`identity`)
        tokens/<split>-<shard>.safetensors
                                        contexts: `tokens` int32 [contexts, context], `starts` int32 [documents]
        tokens/layout.json              `Layout`; written when all tokens are there
        tokens/draft.json               how far tokenising is, until then
        activations/<split>-<shard>.safetensors
                                        rows: `x` [rows, d_model], `position` int32 [rows], `g` in split 'attribution'
        activations/<split>-<shard>.json
                                        `commit.Commit`, the proof that the shard is whole
        streamed/train-<shard>.json     commits of training shards that mode 'stream' computed and did not keep
        manifest.json                   `manifest.Manifest`, when all is there
        partial.json                    the same of a store that was made for mode 'stream'
        heartbeat.json, failed.json     while a harvest writes, or when it failed (`writer`)
        readers/<sweep>.json            which sweeps use it (`usage`)

All records are JSON with no clock in them: the same request gives the same bytes.
"""

import math
from dataclasses import dataclass
from typing import Literal

from pydantic import ConfigDict, TypeAdapter, ValidationError

from dmsae_ray.config import ActivationSettings
from dmsae_ray.errors import DataError

FORMAT = 2
Split = Literal["eval", "attribution", "train"]
SPLITS: tuple[Split, ...] = ("eval", "attribution", "train")
"""Splits in the order in which they take the corpus's contexts."""

TOKENS, ACTIVATIONS, STREAMED = "tokens", "activations", "streamed"
"""Subfolders of a store."""
REQUEST, MANIFEST, PARTIAL = "request.json", "manifest.json", "partial.json"
"""Files of a store."""
LAYOUT, DRAFT = "layout.json", "draft.json"
"""Files of the folder of the tokens."""


def shard_name(split: str, shard: int) -> str:
    """Name of a shard, without its suffix: `.safetensors` for data, `.json` for its commit."""
    return f"{split}-{shard:06d}"


@dataclass(frozen=True)
class Layout:
    """How the tokens of a store are cut; written when all token shards are, before any activation.

    Attributes:
        d_model: width of an activation.
        context: tokens of a context, BOS included.
        bos, eos: tokens that open a context and end a document, if the tokenizer has them.
        special: the tokenizer's special tokens.
        contexts_per_shard: contexts of a shard; a split's last shard may hold fewer.
        contexts: contexts of each split.
        documents, skipped: documents packed, and passed over as empty or corrupt.
        token_checksums: of every token shard.
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
        """Number of shards of a split."""
        return math.ceil(self.contexts[split] / self.contexts_per_shard)

    def shard_tokens(self, split: Split, shard: int) -> int:
        """Tokens of a shard, before filters."""
        first = shard * self.contexts_per_shard
        return (min(self.contexts[split], first + self.contexts_per_shard) - first) * self.context

    def all_shards(self) -> list[tuple[Split, int]]:
        """Every (split, shard), in the order in which they are harvested."""
        return [(split, shard) for split in SPLITS for shard in range(self.shards(split))]

    def norm_shards(self, norm_tokens: int) -> int:
        """Number of training shards that the norm factor is taken from: the first `norm_tokens`, rounded up."""
        return min(math.ceil(norm_tokens / (self.contexts_per_shard * self.context)), self.shards("train"))

    def stored_shards(self, settings: ActivationSettings) -> list[tuple[Split, int]]:
        """Every (split, shard) that is stored: all, or in mode 'stream' no more training shards than the norm needs."""
        if settings.mode == "store":
            return self.all_shards()
        kept = self.norm_shards(settings.norm_tokens)
        return [(split, shard) for split, shard in self.all_shards() if split != "train" or shard < kept]


_LAYOUT = TypeAdapter(Layout)


def decode_layout(content: bytes, where: object) -> Layout:
    """A `Layout` from its JSON; DataError if it is none that could be."""
    wrong = DataError(f"{where} is not a layout; delete it to have the tokens made again")
    try:
        layout = _LAYOUT.validate_json(content, strict=True)
    except ValidationError:
        raise wrong from None
    if set(layout.contexts) != set(SPLITS) or min(layout.contexts.values()) < 0:
        raise wrong
    if min(layout.d_model, layout.context, layout.contexts_per_shard, layout.contexts["train"]) < 1:
        raise wrong
    return layout
