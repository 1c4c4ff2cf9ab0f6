"""The place in the corpus after each token shard, so that killed tokenising continues there: arithmetic and one file.

The state of the packer is not kept. The tokens of a document depend on its text alone, so the document in which the
last shard ends is read and tokenised again, and the tokens that the shard took from it are left out.
"""

import hashlib
import json
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dmsae_ray.corpus import Skipped
from dmsae_ray.errors import DataError
from dmsae_ray.files import Folder, decode_record, encode_record
from dmsae_ray.store import DRAFT, damaged_shards

_NAMES = ("OTHER", *(reason.name for reason in Skipped))
"""Names of the reasons for which documents are skipped; the place of a name is the reason's number."""


@dataclass(frozen=True)
class CorpusCursor:
    """A cut through the stream of documents.

    Attributes:
        unit: index of the unit (`corpus.list_units`) to continue with.
        document: index in that unit of the first document that is not used up; empty documents count.
        offset: number of tokens of that document that are used, the EOS behind it included.
        documents: number of documents with text that begin before the cut.
        reasons: number of documents without text before the last of those, by the name of their reason
            (`corpus.Skipped`, or OTHER).
    """

    unit: int = 0
    document: int = 0
    offset: int = 0
    documents: int = 0
    reasons: dict[str, int] = field(default_factory=dict)

    @property
    def skipped(self) -> int:
        """Number of documents without text before the last document with text."""
        return sum(self.reasons.values())


def reasons_of(lengths: NDArray[np.int32]) -> dict[str, int]:
    """Return the number of documents without text, by the name of their reason (see `token_writer.DocumentGroup`)."""
    counts = np.bincount(-lengths[lengths <= 0], minlength=len(_NAMES))
    return {name: int(count) for name, count in zip(_NAMES, counts, strict=True) if count}


@dataclass(frozen=True)
class TokenDraft:
    """The token shards that are written so far.

    Attributes:
        units: hash of the text that is read (`text_digest`).
        cursor: where the last shard ends.
        token_checksums: checksums of the token shards, by name.
    """

    units: str = ""
    cursor: CorpusCursor = CorpusCursor()
    token_checksums: dict[str, str] = field(default_factory=dict)


class CursorTracker:
    """Turns places of the token stream into cursors, for documents that come in order.

    Args:
        start: the cursor at which the documents begin.
        place: number of tokens of the stream before it, without BOS tokens.
        eos: whether an EOS token follows every document.
    """

    def __init__(self, start: CorpusCursor, place: int, eos: bool):
        self._unit, self._number = start.unit, start.document
        self._skipped = np.array([start.reasons.get(name, 0) for name in _NAMES], np.int64)
        self._eos = eos
        # For documents with text that no cut has passed: `_ends` holds where the first begins, and then where each ends
        # (EOS included); `_where` holds for each its unit, its number in the unit, and the skipped documents before it.
        self._ends = np.array([place - start.offset], np.int64)
        self._where = np.zeros((0, 2 + len(_NAMES)), np.int64)
        self._documents = start.documents - (start.offset > 0)

    def add(self, lengths: NDArray[np.int32], units: NDArray[np.int32]) -> None:
        """Add documents.

        Args:
            lengths: int32 [n], number of tokens of each; 0 or less for a document without text.
            units: int32 [n], index of the unit of each.
        """
        if not len(lengths):
            return
        index = np.arange(len(units))
        fresh = units != np.concatenate([[self._unit], units[:-1]])
        begins = np.maximum.accumulate(np.where(fresh, index, -1))
        numbers = np.where(begins < 0, self._number + index, index - begins)
        skipped = self._skipped + np.cumsum(-lengths[:, None] == np.arange(len(_NAMES)), axis=0)
        good = lengths > 0
        self._unit, self._number, self._skipped = int(units[-1]), int(numbers[-1]) + 1, skipped[-1]
        ends = self._ends[-1] + np.cumsum(lengths[good].astype(np.int64) + self._eos)
        self._ends = np.concatenate([self._ends, ends])
        self._where = np.concatenate([self._where, np.column_stack([units, numbers, skipped])[good]])

    def cut(self, place: int) -> CorpusCursor:
        """Return the cursor at a place of the stream; it must be after the last cut and within the added documents."""
        used = int(np.searchsorted(self._ends[1:], place, side="right"))
        offset = place - int(self._ends[used])
        unit, number, *skipped = (int(n) for n in self._where[used if offset else used - 1])
        reasons = {name: count for name, count in zip(_NAMES, skipped, strict=True) if count}
        self._ends, self._where = self._ends[used:], self._where[used:]
        self._documents += used
        return CorpusCursor(unit, number + (offset == 0), offset, self._documents + (offset > 0), reasons)


def text_digest(units: list[dict[str, Any]], of_text: dict[str, Any]) -> str:
    """Return a hash of what is read.

    Args:
        units: the units of the corpus.
        of_text: the settings that say how they are read.
    """
    return hashlib.sha256(json.dumps([units, of_text], sort_keys=True).encode()).hexdigest()


def read_draft(folder: Folder, units: str, names: list[str]) -> TokenDraft:
    """Return the draft of the token shards; an empty one if it belongs to another text or a shard is damaged.

    Args:
        folder: folder of the token shards.
        units: hash of the text (`text_digest`).
        names: names of all planned token shards, in order.
    """
    content = folder.read(DRAFT)
    if content is None:
        return TokenDraft(units)
    try:
        tree = decode_record(content, folder / DRAFT)
        position = dict(tree["position"])
        if "skipped" in position:  # of a version that noted no reasons
            position["reasons"] = {_NAMES[0]: int(position.pop("skipped"))}
        draft = TokenDraft(tree["units"], CorpusCursor(**position), dict(tree["token_checksums"]))
    except (DataError, KeyError, TypeError, ValueError):
        return TokenDraft(units)
    fits = draft.units == units and set(draft.token_checksums) == set(names[: len(draft.token_checksums)])
    return draft if fits and not damaged_shards(folder, draft.token_checksums) else TokenDraft(units)


def write_draft(folder: Folder, draft: TokenDraft) -> None:
    """Write the draft in place of the previous one."""
    tree = {"units": draft.units, "position": asdict(draft.cursor), "token_checksums": draft.token_checksums}
    folder.write(DRAFT, [encode_record(tree)])
