"""Token shards, written in order: documents are packed into contexts, and contexts are cut into shards."""

from collections.abc import Callable, Iterable

import numpy as np
import safetensors.numpy
from numpy.typing import NDArray

from dmsae_ray.corpus import Contexts, Packer, join
from dmsae_ray.files import Folder, checksum
from dmsae_ray.harvest.cursor import CursorTracker, TokenDraft, reasons_of, write_draft
from dmsae_ray.harvest.progress import HarvestProgress, Meter

DocumentGroup = tuple[NDArray[np.int32], NDArray[np.int32], NDArray[np.int32]]
"""Documents: int32 tokens [sum of positive lengths], lengths [documents], unit index [documents].

The length of a document without text is minus its reason (`corpus.Skipped`), or 0 without a reason."""


class TokenShardWriter:
    """Packs documents into contexts and contexts into token shards, in order, starting where a draft ends.

    Args:
        folder: folder of the token shards.
        plan: number of contexts of each shard, by name, in order.
        draft: what is already written.
        context: tokens of a context (see `Packer`, also for the next two).
        bos: token at the start of every context, if any.
        eos: token after every document, if any.
        progress: called with the tokens packed.

    Attributes:
        reasons_seen: number of documents without text so far, by the name of their reason.
    """

    def __init__(
        self,
        folder: Folder,
        plan: dict[str, int],
        draft: TokenDraft,
        context: int,
        bos: int | None,
        eos: int | None,
        progress: Callable[[HarvestProgress], None] | None = None,
    ):
        self._folder, self._plan, self._draft, self._context = folder, plan, draft, context
        written = sum(plan[name] for name in draft.token_checksums)
        self._body = context - (bos is not None)
        self._packer = Packer(context, bos, eos, skip=draft.cursor.offset)
        self._tracker = CursorTracker(draft.cursor, written * self._body, eos is not None)
        self._written = self._packed = written
        self._meter = Meter("tokens", sum(plan.values()) * context, progress, done=written * context)
        # The document in which the last shard ends is read, and counted, a second time.
        self._documents_before = draft.cursor.documents - (draft.cursor.offset > 0)
        self.reasons_seen = dict(draft.cursor.reasons)

    @property
    def documents_seen(self) -> int:
        """Number of documents with text so far."""
        return self._documents_before + self._packer.documents

    @property
    def tokens_seen(self) -> int:
        """Number of tokens so far, including those that do not fill a context yet."""
        return self._packed * self._context + self._packer.pending

    def run(self, groups: Iterable[DocumentGroup]) -> TokenDraft:
        """Write shards until the plan is done or the groups end; return the draft at that point."""
        names = list(self._plan)
        waiting: list[Contexts] = []
        have, wanted = 0, sum(self._plan.values())
        for tokens, lengths, units in groups:
            for name, count in reasons_of(lengths).items():
                self.reasons_seen[name] = self.reasons_seen.get(name, 0) + count
            self._tracker.add(lengths, units)
            full = self._packer.add(tokens, lengths[lengths > 0])
            waiting.append(full)
            self._meter.add(max(0, min(len(full), wanted - self._packed)) * self._context, full.tokens.nbytes)
            have, self._packed = have + len(full), self._packed + len(full)
            while (done := len(self._draft.token_checksums)) < len(names) and have >= self._plan[names[done]]:
                need = self._plan[names[done]]
                merged = join(waiting)
                self._write(names[done], merged[slice(0, need)])
                waiting, have = [merged[slice(need, None)]], have - need
            if len(self._draft.token_checksums) == len(names):
                break
        return self._draft

    def _write(self, name: str, shard: Contexts) -> None:
        """Write a shard and then the draft, which says where it ends."""
        content = safetensors.numpy.save(
            {"tokens": np.ascontiguousarray(shard.tokens), "starts": np.ascontiguousarray(shard.starts)}
        )
        self._folder.write(f"{name}.safetensors", [content])
        self._written += len(shard)
        cursor = self._tracker.cut(self._written * self._body)
        sums = {**self._draft.token_checksums, name: checksum(content)}
        self._draft = TokenDraft(self._draft.units, cursor, sums)
        write_draft(self._folder, self._draft)
