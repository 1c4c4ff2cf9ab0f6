"""Words of held-out text whose first letter is known: a bounded sample, cut into two halves that share no word."""

import re
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

LETTERS = "abcdefghijklmnopqrstuvwxyz"
PER_WORD = 8
"""Occurrences of a word that are looked at."""
MOST = 1 << 15
"""Occurrences that are looked at in all: at a width of 2304 their activations are 302 MB."""
UNIT = 840
"""Weight of a word. Every number up to `PER_WORD` divides it, so that the weights of occurrences are whole numbers."""
_WORD = re.compile(r" [A-Za-z]{2,}")


@dataclass(frozen=True, eq=False)
class WordSample:
    """n occurrences of words in held-out text, in the order of the text.

    Attributes:
        words: the words, in lower case.
        places: int64 [n], where they are in the flattened tokens, ascending.
        word: int64 [n], which word each is.
        letter: int64 [n], its first letter, 0..25.
        weight: int64 [n], `UNIT` over the number of occurrences of its word here, so that all words weigh the same.
        held_out: bool [n], whether its word is in the second half.
    """

    words: tuple[str, ...]
    places: Tensor
    word: Tensor
    letter: Tensor
    weight: Tensor
    held_out: Tensor

    def words_of(self, letter: int, *, held_out: bool) -> int:
        """Return the number of words with a first letter, in one half."""
        return len(torch.unique(self.word[(self.letter == letter) & (self.held_out == held_out)]))


def sample_words(tokens: Tensor, kept: Tensor, text: Callable[[int], str], seed: int = 0) -> WordSample:
    """Find the tokens that are words, and draw occurrences of each.

    A word is a token whose text is a space and at least two ASCII letters: a word, or how a longer one begins. Upper
    and lower case are one word. Of each word the first `PER_WORD` occurrences are taken; if these are more than `MOST`,
    the first ones of all words go first. The words of each letter are dealt to the two halves in a drawn order.

    Args:
        tokens: int64 [contexts, t].
        kept: bool [contexts, t], the tokens that have an activation.
        text: gives the text of a token, its leading space included (`lm.TokenText.one`).
        seed: seed of the halves.
    """
    flat, places = tokens.reshape(-1), kept.reshape(-1).nonzero().view(-1)
    ids, which = torch.unique(flat[places], return_inverse=True)
    texts = [text(token) for token in ids.tolist()]
    spelt = [found[1:].lower() if _WORD.fullmatch(found) else None for found in texts]
    words = sorted({word for word in spelt if word is not None})
    number = {word: n for n, word in enumerate(words)}
    word = torch.tensor([-1 if found is None else number[found] for found in spelt], dtype=torch.int64)[which]
    places, word = places[word >= 0], word[word >= 0]
    rank = _rank(word)
    taken = (rank < PER_WORD).nonzero().view(-1)
    taken = taken[rank[taken].argsort(stable=True)][:MOST].sort().values
    places, word = places[taken], word[taken]
    letter_of = torch.tensor([LETTERS.index(found[0]) for found in words], dtype=torch.int64)
    return WordSample(
        words=tuple(words),
        places=places,
        word=word,
        letter=letter_of[word],
        weight=UNIT // torch.bincount(word, minlength=len(words))[word].clamp(min=1),
        held_out=_second_half(letter_of, seed)[word],
    )


def _rank(word: Tensor) -> Tensor:
    """Return, for each occurrence [n], how many of the same word come before it."""
    order = word.argsort(stable=True)
    first = torch.searchsorted(word[order], word[order])
    rank = torch.empty_like(word)
    rank[order] = torch.arange(len(word)) - first
    return rank


def _second_half(letter_of: Tensor, seed: int) -> Tensor:
    """Deal the words of each letter to two halves; return bool [words], True for the second one."""
    drawn = torch.randperm(len(letter_of), generator=torch.Generator().manual_seed(seed))
    second = torch.zeros(len(letter_of), dtype=torch.bool)
    second[drawn] = _rank(letter_of[drawn]) % 2 == 1
    return second
