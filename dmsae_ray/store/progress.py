"""How far the harvest of a store is, from its files alone; nothing is locked or changed."""

from dataclasses import dataclass

from dmsae_ray.config import ActivationSettings
from dmsae_ray.errors import DataError
from dmsae_ray.files import Folder, decode_record
from dmsae_ray.store.layout import ACTIVATIONS, DRAFT, LAYOUT, MANIFEST, PARTIAL, TOKENS, decode_layout, shard_name


@dataclass(frozen=True)
class StoreProgress:
    """How far a store is.

    Attributes:
        stage: What is being made: 'tokens' or 'activations'; 'complete' if all is there, 'none' if nothing is.
        done: Tokens of the stage that are done; of the stage 'tokens', shards.
        total: Tokens of the whole stage; 0 if it is not known.
    """

    stage: str
    done: int = 0
    total: int = 0

    def __str__(self) -> str:
        """Return it in words."""
        if self.stage == "activations":
            return f"activations: {self.done:,} of {self.total:,} tokens ({self.done / self.total:.0%})"
        if self.stage == "tokens":
            return f"tokens: {self.done:,} shards written"
        return {"complete": "complete", "none": "not begun"}[self.stage]


def store_progress(store: Folder, settings: ActivationSettings) -> StoreProgress:
    """Return how far a store is; only its records are read, and its activations are listed.

    Args:
        store: The store's folder.
        settings: What is to be stored.

    Raises:
        DataError: The store cannot be read, or a record is damaged.
    """
    files = store.sizes()
    if MANIFEST in files or (PARTIAL in files and settings.mode == "stream"):
        return StoreProgress("complete")
    content = (store / TOKENS).read(LAYOUT)
    if content is not None:
        layout, there = decode_layout(content, store / TOKENS / LAYOUT), (store / ACTIVATIONS).sizes()
        shards = {shard_name(*item): layout.shard_tokens(*item) for item in layout.stored_shards(settings)}
        done = sum(tokens for name, tokens in shards.items() if f"{name}.json" in there)
        return StoreProgress("activations", done, sum(shards.values()))
    draft = (store / TOKENS).read(DRAFT)
    if draft is None:
        return StoreProgress("tokens" if files else "none")
    written = decode_record(draft, store / TOKENS / DRAFT).get("token_checksums")
    if not isinstance(written, dict):
        raise DataError(f"{store / TOKENS / DRAFT} is not a record of tokenising")
    return StoreProgress("tokens", len(written))
