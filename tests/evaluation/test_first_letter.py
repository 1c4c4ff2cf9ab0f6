"""First letters: a sample counted by hand, probes against a plain formula, and dictionaries whose absorption is known.

In the constructed world an activation is the direction of the word's first letter, plus a direction of the word's own,
plus a large common mean and a little noise. A dictionary can have a latent for each of these directions.
"""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dmsae_ray.evaluation import first_letter as module
from dmsae_ray.evaluation import word_sample
from dmsae_ray.evaluation.first_letter import first_letter_absorption
from dmsae_ray.evaluation.letter_probes import auroc, fit_letter_probes
from dmsae_ray.evaluation.word_sample import UNIT, sample_words
from dmsae_ray.sae.dictionary import MatryoshkaSAE

TEXT = [" The", " the", "the", " a", " it's", "\n on", " to", " naïve", " of", " an", " 42", " On"]


def test_words_are_found_and_weighed():
    tokens = torch.tensor([[0, 1, 2, 3, 4, 5], [6, 7, 8, 9, 10, 11], [1, 1, 8, 6, 0, 1]])
    kept = torch.ones_like(tokens, dtype=torch.bool)
    kept[2, 0] = False
    found = sample_words(tokens, kept, TEXT.__getitem__)
    assert found.words == ("an", "of", "on", "the", "to")
    assert found.places.tolist() == [0, 1, 6, 8, 9, 11, 13, 14, 15, 16, 17]
    spelt = [found.words[n] for n in found.word.tolist()]
    assert spelt == ["the", "the", "to", "of", "an", "on", "the", "of", "to", "the", "the"]
    assert ["abcdefghijklmnopqrstuvwxyz"[n] for n in found.letter.tolist()] == [word[0] for word in spelt]
    assert found.weight.tolist() == [UNIT // spelt.count(word) for word in spelt]
    held_out = {word: bool(side) for word, side in zip(spelt, found.held_out.tolist(), strict=True)}
    assert [held_out[word] for word in spelt] == found.held_out.tolist(), "a word is in one half"
    assert held_out["the"] != held_out["to"] and held_out["of"] != held_out["on"] and not held_out["an"]


@given(st.lists(st.integers(0, 11), min_size=1, max_size=80), st.integers(1, 6), st.integers(0, 5))
def test_a_sample_is_bounded_and_takes_first_occurrences_first(ids, most, seed):
    tokens = torch.tensor(ids)[None]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(word_sample, "MOST", most)
        patch.setattr(word_sample, "PER_WORD", 3)
        found = sample_words(tokens, torch.ones_like(tokens, dtype=torch.bool), TEXT.__getitem__, seed)
    seen, ranked = {}, []
    for place, token in enumerate(ids):
        word = TEXT[token][1:].lower()
        if token in (0, 1, 6, 8, 9, 11):
            seen[word] = seen.get(word, 0) + 1
            if seen[word] <= 3:
                ranked.append((seen[word], place))
    assert found.places.tolist() == sorted(place for _, place in sorted(ranked)[:most])


@given(
    scores=st.lists(st.tuples(st.integers(-3, 3), st.booleans(), st.integers(1, 5)), min_size=1, max_size=30),
)
def test_auroc_is_the_share_of_the_pairs(scores):
    values = torch.tensor([s for s, _, _ in scores]).double()
    positive, weights = torch.tensor([p for _, p, _ in scores]), torch.tensor([w for _, _, w in scores]).double()
    total = hits = 0.0
    for s, p, w in scores:
        for s2, p2, w2 in scores:
            if p and not p2:
                total += w * w2
                hits += w * w2 * (1.0 if s > s2 else 0.5 if s == s2 else 0.0)
    found = auroc(values, positive, weights)
    assert math.isnan(found) if total == 0 else found == pytest.approx(hits / total)


LETTERS, WORDS, TIMES, D = "abcd", 20, 4, 128
MEAN = 3.0 * torch.ones(D)


class World:
    """80 words of four letters, four occurrences of each in held-out text."""

    def __init__(self):
        generator = torch.Generator().manual_seed(0)
        basis = torch.linalg.qr(torch.randn(D, D, generator=generator)).Q
        self.letter, self.own = basis[: len(LETTERS)], basis[len(LETTERS) : len(LETTERS) * (1 + WORDS)]
        self.words = [a + chr(97 + n) * 2 for a in LETTERS for n in range(WORDS)]
        tokens = torch.arange(len(self.words)).repeat(TIMES)[:, None]
        self.sample = sample_words(tokens, torch.ones_like(tokens, dtype=torch.bool), lambda n: " " + self.words[n])
        assert self.sample.words == tuple(self.words)
        word = self.sample.word
        noise = 0.003 * torch.randn(len(word), D, generator=generator)
        self.x = MEAN + self.letter[word // WORDS] + self.own[word] + noise
        self.probes = fit_letter_probes(self.x, self.sample)

    def held_out_words(self, letter):
        word = self.sample.word[self.sample.held_out & (self.sample.letter == letter)].unique().tolist()
        assert len(word) == WORDS // 2
        return word

    def sae(self, absorbed=(), split=False):
        """A latent for each letter (or two, for half of its words each) and word; `absorbed` words have both."""
        letters = [(a, part) for a in range(len(LETTERS)) for part in ((0, 1) if split else (None,))]
        m = len(letters) + len(self.own)
        sae = MatryoshkaSAE(D, m, [m // 2, m - m // 2], 2)
        with torch.no_grad():
            for n, (a, part) in enumerate(letters):
                sae.W_enc[n] = sae.W_dec[n] = self.letter[a]
                for word in range(a * WORDS, (a + 1) * WORDS):
                    if word in absorbed or (part is not None and word % 2 != part):
                        sae.W_enc[n] -= 3 * self.own[word]
            for word in range(len(self.own)):
                n = len(letters) + word
                sae.W_enc[n] = sae.W_dec[n] = self.own[word]
                if word in absorbed:
                    sae.W_dec[n] = self.own[word] + self.letter[word // WORDS]
            sae.b_dec.copy_(MEAN)
            sae.b_enc.fill_(-0.1)
        return sae

    def measure(self, sae):
        return first_letter_absorption(sae, self.x, self.sample, self.probes)


@pytest.fixture(scope="module")
def world():
    return World()


def test_probes_are_the_shrunk_linear_discriminant(world):
    """Against numpy, with a row for each word in place of weights (each word occurs equally often here)."""
    fit = ~world.sample.held_out.numpy()
    x, y = world.x.double().numpy(), world.sample.letter.numpy()
    means = np.stack([x[fit & (y == a)].mean(0) for a in range(4)])
    apart = x[fit] - means[y[fit]]
    within = apart.T @ apart / fit.sum()
    within = 0.9 * within + 0.1 * np.diag(np.diag(within))
    centre = x[fit].mean(0)
    w = np.linalg.solve(within, (means - centre).T)
    scores = (x - centre) @ w - 0.5 * np.einsum("pd,dp->p", means - centre, w) + math.log(1 / 4)
    np.testing.assert_allclose(world.probes.directions.numpy(), (w / np.linalg.norm(w, axis=0)).T, atol=1e-5)
    right = ~fit & (scores.argmax(1) == y)
    assert world.probes.right.tolist() == right.tolist()
    for a in range(4):
        named, true = ~fit & (scores.argmax(1) == a), ~fit & (y == a)
        assert float(world.probes.f1[a]) == pytest.approx(2 * (named & true).sum() / (named.sum() + true.sum()))
    assert float(world.probes.f1.min()) > 0.9 and float(world.probes.auroc.min()) > 0.95


def test_rare_and_frequent_words_count_the_same(world):
    """A sample in which each word of one letter occurs twice as often has the same probes."""
    twice = torch.cat([torch.arange(len(world.x)), (world.sample.letter == 0).nonzero().view(-1)])
    sample = word_sample.WordSample(
        world.sample.words,
        world.sample.places[twice],
        world.sample.word[twice],
        world.sample.letter[twice],
        UNIT // torch.bincount(world.sample.word[twice])[world.sample.word[twice]],
        world.sample.held_out[twice],
    )
    again = fit_letter_probes(world.x[twice], sample)
    torch.testing.assert_close(again.directions, world.probes.directions)
    torch.testing.assert_close(again.f1, world.probes.f1)
    torch.testing.assert_close(again.auroc, world.probes.auroc)


def test_perfect_letter_latents_absorb_nothing(world):
    found = world.measure(world.sae())
    assert found.reason is None and found.probed == 4 and found.words == 80
    assert [one.letter for one in found.letters] == list(LETTERS)
    for n, one in enumerate(found.letters):
        assert one.main == (n,) and one.main_f1 == 1.0
        assert (one.silent, one.absorbed, one.words) == (0.0, 0.0, WORDS // 2)
        assert one.occurrences == int((world.probes.right & (world.sample.letter == n)).sum())
    assert (found.silent, found.absorbed) == (0.0, 0.0) and math.isnan(found.absorbed_when_silent)


def test_absorbed_words_have_the_known_rate(world):
    """Three of the ten held-out words with b: their own latent carries the letter, whose latent is silent."""
    absorbed = world.held_out_words(1)[:3]
    found = world.measure(world.sae(absorbed))
    assert [one.main for one in found.letters] == [(0,), (1,), (2,), (3,)]
    assert [one.silent for one in found.letters] == [0.0, pytest.approx(0.3), 0.0, 0.0]
    assert [one.absorbed for one in found.letters] == [0.0, pytest.approx(0.3), 0.0, 0.0]
    assert found.absorbed == pytest.approx(0.3 / 4) and found.absorbed_when_silent == pytest.approx(1)


def test_a_silent_letter_that_no_latent_carries_is_not_absorbed(world):
    """The letter's latent is silent at three words, and the latents of these words have no part of the letter."""
    silent = world.held_out_words(2)[:3]
    sae = world.sae(silent)
    with torch.no_grad():
        for word in silent:
            sae.W_dec[len(LETTERS) + word] = world.own[word]
        # One that fires at every word alike says nothing of the letter, whatever its direction.
        sae.W_enc[-1], sae.b_enc[-1], sae.W_dec[-1] = 0, 2.0, world.letter[2]
    found = world.measure(sae)
    assert found.letters[2].silent == pytest.approx(0.3) and found.letters[2].absorbed == 0
    assert found.absorbed_when_silent == 0


def test_a_small_share_or_a_crooked_direction_is_no_absorption(world):
    """Of three silent words, one latent carries nearly the whole letter, one too little, one at too small a cosine."""
    words = world.held_out_words(3)[:3]
    sae = world.sae(words)
    with torch.no_grad():
        sae.W_dec[len(LETTERS) + words[1]] = world.own[words[1]] + 0.3 * world.letter[3]
        probe, own = world.probes.directions[3].float(), world.own[words[2]]
        sae.W_dec[len(LETTERS) + words[2]] = world.letter[3] + 15 * (own - (own @ probe) * probe)
    found = world.measure(sae).letters[3]
    assert found.silent == pytest.approx(0.3) and found.absorbed == pytest.approx(0.1)


def test_a_letter_may_have_two_latents(world):
    found = world.measure(world.sae(split=True))
    assert [set(one.main) for one in found.letters] == [{2 * a, 2 * a + 1} for a in range(4)]
    assert found.silent == 0 and found.main_f1 == 1


@pytest.mark.parametrize("elements", [1, 1000])
def test_blocks_do_not_matter(world, monkeypatch, elements):
    sae = world.sae(world.held_out_words(0)[:2])
    want = world.measure(sae)
    monkeypatch.setattr(module, "_ELEMENTS", elements)
    assert world.measure(sae) == want


def test_where_no_letter_can_be_judged_it_says_why(world):
    tokens = torch.arange(12)[None]
    kept = torch.ones_like(tokens, dtype=torch.bool)
    few, none = sample_words(tokens, kept, TEXT.__getitem__), sample_words(tokens, kept, lambda n: "x")
    generator = torch.Generator().manual_seed(0)
    for sample, x, reason in (
        (none, torch.zeros(0, D), "no token of the held-out text is a space and a word of ASCII letters"),
        (few, torch.zeros(len(few.word), D), "of 5 words that are one token, no two letters have 5 in each half"),
        (world.sample, torch.randn(len(world.x), D, generator=generator), "no probe reaches F1 0.6 on words that"),
    ):
        found = first_letter_absorption(world.sae(), x, sample, fit_letter_probes(x, sample))
        assert found.letters == () and found.reason.startswith(reason)
        assert math.isnan(found.absorbed) and math.isnan(found.silent) and math.isnan(found.main_f1)
