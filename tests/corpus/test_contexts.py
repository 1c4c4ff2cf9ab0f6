"""Packing of documents into contexts, held against a token-by-token loop."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from dmsae_ray.corpus.contexts import Packer, join, loss_mask

documents = st.lists(st.lists(st.integers(10, 99), min_size=1, max_size=20), min_size=1, max_size=15)
specials = st.sampled_from([(1, 2), (None, 2), (1, None), (None, None)])


def flat(texts: list[list[int]]) -> np.ndarray:
    return np.array([token for text in texts for token in text], np.int32)


def plain(texts: list[list[int]], context: int, bos: int | None, eos: int | None) -> tuple[list[list[int]], list[int]]:
    """Contexts and, for every token in them, the number of its document (-1: BOS)."""
    stream = [(token, i) for i, text in enumerate(texts) for token in (*text, *([eos] if eos is not None else []))]
    body = context - (bos is not None)
    head = [(bos, -1)] if bos is not None else []
    cut = [head + stream[i : i + body] for i in range(0, len(stream) - body + 1, body)]
    return [[t for t, _ in row] for row in cut], [d for row in cut for _, d in row]


@given(documents, st.integers(8, 12), specials, st.integers(1, 5))
@settings(max_examples=150, deadline=None)
def test_packing_and_mask(
    texts: list[list[int]], context: int, special: tuple[int | None, int | None], group: int
) -> None:
    bos, eos = special
    packer = Packer(context, bos, eos)
    parts = []
    for i in range(0, len(texts), group):
        part = texts[i : i + group]
        parts.append(packer.add(flat(part), np.array([len(text) for text in part], np.int32)))
    got = join(parts)
    rows, owner = plain(texts, context, bos, eos)
    assert got.tokens.tolist() == rows
    mask = loss_mask(got, bos is not None)
    for row in range(len(rows)):
        for col in range(context):
            here = owner[row * context + col]
            after = owner[row * context + col + 1] if col + 1 < context else None
            assert mask[row, col] == (after is not None and (here == -1 or here == after))
    assert packer.documents == len(texts)


@given(documents, st.integers(0, 6), st.integers(1, 6))
@settings(max_examples=60, deadline=None)
def test_slices_keep_the_document_starts(texts: list[list[int]], first: int, count: int) -> None:
    packer = Packer(8, 1, 2)
    whole = packer.add(flat(texts), np.array([len(text) for text in texts], np.int32))
    part = whole[first : first + count]
    assert np.array_equal(loss_mask(part, True), loss_mask(whole, True)[first : first + count])
