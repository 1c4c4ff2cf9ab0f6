"""From documents to contexts: arithmetic on token arrays, without I/O."""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

Tokens = NDArray[np.int32]


@dataclass(frozen=True)
class Contexts:
    """Contexts of equal length, cut from a stream of documents.

    Attributes:
        tokens: int32 [n, context].
        starts: int32 [s], flat index (row-major in `tokens`) of the first token of every document that starts here.
    """

    tokens: Tokens
    starts: NDArray[np.int32]

    def __len__(self) -> int:
        return int(self.tokens.shape[0])

    def __getitem__(self, rows: slice) -> "Contexts":
        first, last, _ = rows.indices(len(self))
        width = self.tokens.shape[1]
        inside = (self.starts >= first * width) & (self.starts < last * width)
        return Contexts(self.tokens[first:last], self.starts[inside] - np.int32(first * width))


def join(parts: list[Contexts]) -> Contexts:
    """Concatenate contexts in order."""
    offsets = np.cumsum([0] + [part.tokens.size for part in parts])
    starts = [part.starts + np.int32(offset) for part, offset in zip(parts, offsets, strict=False)]
    return Contexts(np.concatenate([part.tokens for part in parts]), np.concatenate(starts))


def loss_mask(contexts: Contexts, has_bos: bool) -> NDArray[np.bool_]:
    """Return the positions whose next token is to be predicted, as bool [n, context].

    A position is False if it is the last of its context (it has no target), or if its target is the first token of
    another document. A BOS directly before a document stays True: it may predict the document's first token.

    Args:
        contexts: the contexts.
        has_bos: whether every context begins with BOS.
    """
    mask = np.ones(contexts.tokens.shape, dtype=bool)
    mask[:, -1] = False
    flat = mask.reshape(-1)
    column = contexts.starts % contexts.tokens.shape[1]
    flat[contexts.starts[column > int(has_bos)] - 1] = False
    return mask


@dataclass
class Packer:
    """Joins documents by EOS and cuts the stream into contexts that each begin with BOS.

    Attributes:
        context: tokens of a context, BOS included.
        bos: token at the start of every context, if the tokenizer has one.
        eos: token after every document, if the tokenizer has one.
        skip: tokens (EOS included) to leave out before the first context; they end within the first document.
        documents: number of documents added so far.
    """

    context: int
    bos: int | None
    eos: int | None
    skip: int = 0
    documents: int = 0
    _rest: Tokens = field(default_factory=lambda: np.empty(0, np.int32))
    _starts: NDArray[np.int64] = field(default_factory=lambda: np.empty(0, np.int64))

    @property
    def pending(self) -> int:
        """Number of tokens that do not fill a context yet."""
        return len(self._rest)

    def add(self, tokens: Tokens, lengths: NDArray[np.int32]) -> Contexts:
        """Add documents and return the contexts that are full.

        Args:
            tokens: int32 [sum(lengths)], the tokens of the documents in order.
            lengths: int32 [documents], each at least 1.
        """
        self.documents += len(lengths)
        begins = np.cumsum(lengths, dtype=np.int64) - lengths
        if self.eos is not None:
            tokens = np.insert(tokens, begins + lengths, self.eos)
            begins = begins + np.arange(len(lengths))
        if self.skip and len(lengths):
            tokens, begins = tokens[self.skip :], begins[1:] - self.skip
            self.skip = 0
        starts = np.concatenate([self._starts, begins + len(self._rest)])
        stream = np.concatenate([self._rest, tokens]).astype(np.int32, copy=False)
        has_bos = self.bos is not None
        body = self.context - has_bos
        n = len(stream) // body
        used = n * body
        out = np.empty((n, self.context), np.int32)
        if self.bos is not None:
            out[:, 0] = self.bos
        out[:, int(has_bos) :] = stream[:used].reshape(n, body)
        inside = starts[starts < used]
        self._rest = stream[used:].copy()
        self._starts = starts[starts >= used] - used
        place = inside // body * self.context + inside % body + int(has_bos)
        return Contexts(out, place.astype(np.int32))
