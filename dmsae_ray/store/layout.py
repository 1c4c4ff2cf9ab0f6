"""What is written beside the data: the layout of a store, the commit of a shard, the manifest. JSON, no clock in it."""

import hashlib
import json
import math
import sys
from dataclasses import asdict, dataclass
from typing import Any, Literal

from pydantic import ConfigDict, TypeAdapter, ValidationError

from dmsae_ray.config import Activations, Experiment
from dmsae_ray.errors import DataError
from dmsae_ray.store.identity import corpus_content, model_content

FORMAT = 2
Split = Literal["eval", "attribution", "train"]
SPLITS: tuple[Split, ...] = ("eval", "attribution", "train")
"""Splits in the order in which they take the corpus's contexts."""

TOKENS, ACTIVATIONS, STREAMED = "tokens", "activations", "streamed"
"""Subfolders of a store. `streamed` has the commits of training shards that mode 'stream' computed and did not keep."""

REQUEST = "request.json"
LAYOUT = "layout.json"
MANIFEST = "manifest.json"
PARTIAL = "partial.json"
"""Manifest of a store that was prepared for mode 'stream': few of the training shards are in it."""


def shard_name(split: str, shard: int) -> str:
    """Name of a shard, without its suffix: `.safetensors` for data, `.json` for its commit."""
    return f"{split}-{shard:06d}"


def request_of(experiment: Experiment) -> dict[str, Any]:
    """All that decides the content of a store.

    The text that every Python carries, and so the embedded model trained on it, differ between versions of Python. A
    local model or corpus stands there by its content (`identity`), and not by its path. `mode`,
    `shuffle_shards` and `norm_tokens` say how a store is read.
    """
    request: dict[str, Any] = {
        "format": FORMAT,
        "model": experiment.model.model_dump(mode="json"),
        "corpus": experiment.corpus.model_dump(mode="json"),
        "activations": experiment.activations.model_dump(mode="json", exclude=_HOW_IT_IS_READ),
    }
    for section, name, content in (
        ("model", "name", model_content(experiment.model.name)),
        ("corpus", "path", corpus_content(experiment.corpus)),
    ):
        if content is not None:
            request[section] = {**request[section], name: None, "content": content}
    if experiment.corpus.source == "stdlib":
        request["corpus"] = {k: v for k, v in request["corpus"].items() if k in _STDLIB_FIELDS}
    if experiment.corpus.source == "stdlib" or experiment.model.name == "tiny":
        request["python"] = ".".join(map(str, sys.version_info[:3]))
    return request


_HOW_IT_IS_READ = {"mode", "shuffle_shards", "norm_tokens"}
_STDLIB_FIELDS = {"source", "context", "tokens", "attribution_tokens", "eval_tokens"}


def store_key(experiment: Experiment) -> str:
    """Address of a store: a hash [24 hex digits] of the model, corpus and activations sections."""
    text = json.dumps(request_of(experiment), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:24]


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

    def stored_shards(self, settings: Activations) -> list[tuple[Split, int]]:
        """Every (split, shard) that is stored: all, or in mode 'stream' no more training shards than the norm needs."""
        if settings.mode == "store":
            return self.all_shards()
        kept = self.norm_shards(settings.norm_tokens)
        return [(split, shard) for split, shard in self.all_shards() if split != "train" or shard < kept]


@dataclass(frozen=True)
class Commit:
    """The proof that a shard is whole; written after it.

    Attributes:
        rows: activations kept.
        tokens: tokens before filters.
        dropped: tokens left out, by reason.
        sum_squares: sum of the squared norms of the stored rows, float64.
        d_model: width.
        checksum, bytes: of the file (`files.checksum`).
    """

    rows: int
    tokens: int
    dropped: dict[str, int]
    sum_squares: float
    d_model: int
    checksum: str
    bytes: int

    __pydantic_config__ = ConfigDict(extra="forbid")


@dataclass(frozen=True)
class _Listed:
    """What readers need of a manifest."""

    shards: dict[Split, list[Commit]]


_LAYOUT, _COMMIT, _LISTED = TypeAdapter(Layout), TypeAdapter(Commit), TypeAdapter(_Listed)


def encode(record: Any) -> bytes:
    """A record, or a mapping, as canonical JSON."""
    tree = record if isinstance(record, dict) else asdict(record)
    return (json.dumps(tree, sort_keys=True, indent=1) + "\n").encode()


def decode(content: bytes, where: object) -> dict[str, Any]:
    """A JSON mapping; `where` names the file in the error."""
    try:
        tree = json.loads(content)
    except ValueError:
        tree = None
    if not isinstance(tree, dict):
        raise DataError(f"{where} is truncated or not JSON; delete it to have it made again")
    return tree


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


def decode_shards(content: bytes, where: object) -> dict[Split, list[Commit]]:
    """The commits that a manifest lists, by split; DataError if it is none."""
    try:
        return _LISTED.validate_json(content, strict=True).shards
    except ValidationError:
        raise DataError(f"{where} is not a manifest; delete it and harvest again to have it made") from None


def decode_commit(content: bytes, where: object) -> Commit:
    """A `Commit` from its JSON; DataError if it is none."""
    try:
        return _COMMIT.validate_json(content, strict=True)
    except ValidationError:
        raise DataError(f"{where} is not a commit record; delete it to have the shard made again") from None


def norm_factor(commits: list[Commit]) -> float:
    """Root mean square norm over whole shards, in float64: sqrt(sum ||x||^2 / rows)."""
    rows = sum(commit.rows for commit in commits)
    squares = math.fsum(commit.sum_squares for commit in commits)
    if rows == 0 or not squares > 0:
        raise DataError("the activation store's first shards hold no rows with a norm above 0 for the norm factor")
    return math.sqrt(squares / rows)
