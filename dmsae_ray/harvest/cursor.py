"""Where tokenising stands after each token shard, so that a killed one goes on there: arithmetic, and one small file.

Nothing of the packer's state is kept. The tokens of a document depend on its text alone, so the document in which the
last shard ends is read and tokenised again, and as many of its tokens as the shard took are left out.
"""

import hashlib
import json
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dmsae_ray.errors import DataError
from dmsae_ray.files import Folder, decode_record, encode_record
from dmsae_ray.store import DRAFT, damaged_shards


@dataclass(frozen=True)
class CorpusCursor:
    """A cut through the stream of documents.

    Attributes:
        unit: the unit (`corpus.list_units`) to go on with.
        document: of its documents, the first one that is not used up; empty ones count.
        offset: tokens of that document that are used, the EOS behind it included.
        documents: documents with text that begin before the cut.
        skipped: documents without text before the last of those.
    """

    unit: int = 0
    document: int = 0
    offset: int = 0
    documents: int = 0
    skipped: int = 0


@dataclass(frozen=True)
class TokenDraft:
    """What is written so far.

    Attributes:
        units: hash of the text that is read (`text_digest`).
        cursor: where the last shard ends.
        token_checksums: of the token shards, by name.
    """

    units: str = ""
    cursor: CorpusCursor = CorpusCursor()
    token_checksums: dict[str, str] = field(default_factory=dict)


class CursorTracker:
    """Turns places of the token stream into cursors, for documents that come in order.

    Args:
        start: where the first document stands.
        place: tokens of the stream (BOS tokens apart) before it.
        eos: a token follows every document.
    """

    def __init__(self, start: CorpusCursor, place: int, eos: bool):
        self._unit, self._number = start.unit, start.document
        self._skipped = start.skipped
        self._eos = eos
        # Of documents with text that no cut has passed: where each ends, its unit, its number, empty ones before it.
        self._ends = np.array([place - start.offset], np.int64)  # the first entry is where the second document begins
        self._where = np.zeros((0, 3), np.int64)
        self._documents = start.documents - (start.offset > 0)

    def add(self, lengths: NDArray[np.int32], units: NDArray[np.int32]) -> None:
        """Take documents: tokens of each [n], 0 for one without text; the unit of each [n]."""
        if not len(lengths):
            return
        index = np.arange(len(units))
        fresh = units != np.concatenate([[self._unit], units[:-1]])
        begins = np.maximum.accumulate(np.where(fresh, index, -1))
        numbers = np.where(begins < 0, self._number + index, index - begins)
        skipped = self._skipped + np.cumsum(lengths == 0)
        good = lengths > 0
        self._unit, self._number, self._skipped = int(units[-1]), int(numbers[-1]) + 1, int(skipped[-1])
        ends = self._ends[-1] + np.cumsum(lengths[good].astype(np.int64) + self._eos)
        self._ends = np.concatenate([self._ends, ends])
        self._where = np.concatenate([self._where, np.stack([units, numbers, skipped], axis=1)[good]])

    def cut(self, place: int) -> CorpusCursor:
        """The cursor at a place of the stream, after the last cut and within the documents that were given."""
        used = int(np.searchsorted(self._ends[1:], place, side="right"))
        offset = place - int(self._ends[used])
        unit, number, skipped = (int(n) for n in self._where[used if offset else used - 1])
        self._ends, self._where = self._ends[used:], self._where[used:]
        self._documents += used
        return CorpusCursor(unit, number + (offset == 0), offset, self._documents + (offset > 0), skipped)


def text_digest(units: list[dict[str, Any]], of_text: dict[str, Any]) -> str:
    """Hash of what is read: the units and the settings that say how."""
    return hashlib.sha256(json.dumps([units, of_text], sort_keys=True).encode()).hexdigest()


def read_draft(folder: Folder, units: str, names: list[str]) -> TokenDraft:
    """The draft of token shards `names`, in order; an empty one if it is of another text or a shard is damaged."""
    content = folder.read(DRAFT)
    if content is None:
        return TokenDraft(units)
    try:
        tree = decode_record(content, folder / DRAFT)
        draft = TokenDraft(tree["units"], CorpusCursor(**tree["position"]), dict(tree["token_checksums"]))
    except (DataError, KeyError, TypeError, ValueError):
        return TokenDraft(units)
    fits = draft.units == units and set(draft.token_checksums) == set(names[: len(draft.token_checksums)])
    return draft if fits and not damaged_shards(folder, draft.token_checksums) else TokenDraft(units)


def write_draft(folder: Folder, draft: TokenDraft) -> None:
    """Keep the draft in place of the one before."""
    tree = {"units": draft.units, "position": asdict(draft.cursor), "token_checksums": draft.token_checksums}
    folder.write(DRAFT, [encode_record(tree)])
