"""First-letter absorption: at how many words does the latent of a first letter stay silent, since another has its part?

The measure follows "A is for Absorption" (Chanin et al. 2024, arXiv 2409.14507) and the full absorption of SAEBench
(Karvonen et al. 2025, arXiv 2503.09532). It needs no download: the words are tokens of held-out text, with the
activations that they have there, and no prompts in which a model must spell. It differs from SAEBench, with whose
numbers it must not be compared: activations and latents are taken relative to their mean over words, so that what all
words have in common is no letter; a latent speaks for a letter if it fires, and not by its size; every word counts
once.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from dmsae_ray.evaluation.letter_probes import LEAST_WORDS, LetterProbes
from dmsae_ray.evaluation.word_sample import LETTERS, WordSample
from dmsae_ray.sae import MatryoshkaSAE

LEAST_F1 = 0.6
"""A letter is judged if its probe has this F1 on words that it was not fitted on; as in SAEBench."""
LEAST_GAIN = 0.03
"""Another latent is a main latent of the letter, too, if F1 rises by so much; as in SAEBench."""
MOST_MAIN = 5
"""Main latents of a letter, at most."""
LEAST_COSINE = 0.1
"""Cosine of a decoder row and the probe from which a latent can have absorbed the letter."""
LEAST_SHARE = 0.4
"""Share of the activation's projection on the probe that such a latent must carry; as in SAEBench."""
_ELEMENTS = 1 << 26
"""Activations of latents that exist at a time: 268 MB in float32."""


@dataclass(frozen=True)
class LetterAbsorption:
    """One letter that was judged.

    Attributes:
        letter: the letter.
        words: words of the second half that begin with it.
        probe_f1: F1 of its probe on the second half.
        probe_auroc: area under the ROC curve of its probe on the second half.
        main: its main latents, the first one found first; empty if none tells it better than by `LEAST_GAIN`.
        main_f1: F1 of "one of the main latents fires" on the first half, by which they were chosen.
        silent: share of the words, among the occurrences where the probe is right, at which no main latent fires.
        absorbed: share of the words, among the same, at which no main latent fires and another latent has absorbed the
            letter; at most `silent`.
        occurrences: number of these occurrences.
    """

    letter: str
    words: int
    probe_f1: float
    probe_auroc: float
    main: tuple[int, ...]
    main_f1: float
    silent: float
    absorbed: float
    occurrences: int


@dataclass(frozen=True)
class FirstLetter:
    """First-letter absorption of an SAE.

    Attributes:
        letters: the letters that were judged.
        words: words of the sample, both halves.
        probed: letters with enough words for a probe.
        reason: why no letter was judged; None if one was.
    """

    letters: tuple[LetterAbsorption, ...]
    words: int
    probed: int
    reason: str | None

    @property
    def absorbed(self) -> float:
        """Mean over the judged letters of the absorbed share; NaN without any."""
        return _mean([one.absorbed for one in self.letters])

    @property
    def silent(self) -> float:
        """Mean over the judged letters of the share where the main latents are silent; NaN without any."""
        return _mean([one.silent for one in self.letters])

    @property
    def absorbed_when_silent(self) -> float:
        """Share of the silent cases that are absorbed, the judged letters taken together; NaN without a silent one."""
        silent = sum(one.silent for one in self.letters)
        return sum(one.absorbed for one in self.letters) / silent if silent else float("nan")

    @property
    def main_f1(self) -> float:
        """Mean over the judged letters of the main latents' F1; NaN without any."""
        return _mean([one.main_f1 for one in self.letters])

    @property
    def probe_f1(self) -> float:
        """Mean over the judged letters of the probe's F1; NaN without any."""
        return _mean([one.probe_f1 for one in self.letters])


@torch.no_grad()
def first_letter_absorption(sae: MatryoshkaSAE, x: Tensor, sample: WordSample, probes: LetterProbes) -> FirstLetter:
    """Measure first-letter absorption.

    For a letter with unit probe w, and means over the words of the first half written with a bar (words of letters
    without a probe are left out everywhere):

    - its main latents are found on the first half: the latent whose firing tells the letter best (F1), and more as long
      as "one of them fires" gains `LEAST_GAIN`;
    - the occurrences are those of the second half at which the probes find the letter (`LetterProbes.right`);
    - one is absorbed if none of the main latents fires, p = <x - xbar, w> > 0, and a single latent i with
      cos(W_dec[i], w) >= `LEAST_COSINE` fires there and carries (z_i - zbar_i) <W_dec[i], w> >= `LEAST_SHARE` p.

    Args:
        sae: takes raw activations; all its latents count, under the inference mask.
        x: [n, d_model], the activations at the occurrences of the sample.
        sample: what they are.
        probes: fitted on the same.
    """
    judged = [n for n, f1 in enumerate(probes.f1.tolist()) if f1 >= LEAST_F1]
    if not judged:
        return FirstLetter((), len(sample.words), len(probes.letters), _reason(sample, probes))
    active = _Active(sae, x, sample, probes)
    letters = tuple(_judge(sae, x, sample, probes, active, n) for n in judged)
    return FirstLetter(letters, len(sample.words), len(probes.letters), None)


class _Active:
    """All activations above 0 at the occurrences of a sample, in order of the rows; and the fit's counts by latent.

    Attributes:
        row: int64 [entries].
        latent: int64 [entries].
        value: float32 [entries].
        mean: float64 [m], mean over the words of the first half.
    """

    def __init__(self, sae: MatryoshkaSAE, x: Tensor, sample: WordSample, probes: LetterProbes) -> None:
        device = sae.W_enc.device
        rows, latents, values = [], [], []
        step = max(1, _ELEMENTS // sae.n_latents)
        for first in range(0, len(x), step):
            z = sae.encode(x[first : first + step].to(device, torch.float32))
            row, latent = z.nonzero(as_tuple=True)
            rows.append(first + row)
            latents.append(latent)
            values.append(z[row, latent])
        self.row, self.latent, self.value = torch.cat(rows), torch.cat(latents), torch.cat(values)
        self.m = sae.n_latents
        self.weight = (sample.weight * (~sample.held_out & torch.isin(sample.letter, probes.letters))).to(device)
        self.letter = sample.letter.to(device)
        self.mean = torch.zeros(self.m, dtype=torch.float64, device=device)
        self.mean.index_add_(0, self.latent, self.weight[self.row] * self.value.double())
        self.mean /= self.weight.sum().clamp(min=1)

    def main(self, letter: int) -> tuple[tuple[int, ...], float]:
        """Return the main latents of a letter, and the F1 of "one of them fires" on the first half.

        Weights are whole numbers, so that the choice does not depend on the order of a sum.
        """
        own = self.weight * (self.letter == letter)
        positive, free = int(own.sum()), torch.ones_like(self.weight, dtype=torch.bool)
        chosen: list[int] = []
        hits = named = 0
        best = 0.0
        while len(chosen) < MOST_MAIN:
            open_ = free[self.row]
            latent, row = self.latent[open_], self.row[open_]
            more_hits, more_named = (
                torch.zeros(self.m, dtype=torch.int64, device=self.row.device).index_add_(0, latent, weight[row])
                for weight in (own, self.weight)
            )
            f1 = 2 * (hits + more_hits).double() / (named + more_named + positive)
            top = int((f1 == f1.max()).nonzero()[0])  # the first of equal ones, on every device
            if float(f1[top]) - best < LEAST_GAIN:
                break
            best = float(f1[top])
            chosen.append(top)
            hits, named = hits + int(more_hits[top]), named + int(more_named[top])
            free[self.row[self.latent == top]] = False
        return tuple(chosen), best


def _judge(
    sae: MatryoshkaSAE, x: Tensor, sample: WordSample, probes: LetterProbes, active: _Active, n: int
) -> LetterAbsorption:
    letter, device = int(probes.letters[n]), active.row.device
    main, main_f1 = active.main(letter)
    w = probes.directions[n].to(device)
    seen = probes.right & (sample.letter == letter)
    projection = torch.zeros(len(x), dtype=torch.float64)
    projection[seen] = (x[seen].cpu().double() - probes.centre) @ probes.directions[n]
    fires = torch.isin(active.latent, torch.tensor(main, device=device, dtype=torch.int64))
    silent = seen.to(device, copy=True)
    silent[active.row[fires]] = False
    along = torch.mv(sae.W_dec, w.to(sae.W_dec.dtype)).double()
    aligned = along >= LEAST_COSINE * torch.linalg.vector_norm(sae.W_dec, dim=1).double().clamp(min=1e-30)
    entry = silent[active.row] & aligned[active.latent]
    row, latent = active.row[entry], active.latent[entry]
    carried = (active.value[entry].double() - active.mean[latent]) * along[latent]
    most = torch.zeros(len(x), dtype=torch.float64, device=device).scatter_reduce_(0, row, carried, "amax")
    most, silent = most.cpu(), silent.cpu()
    absorbed = silent & (projection > 0) & (most >= LEAST_SHARE * projection)
    return LetterAbsorption(
        letter=LETTERS[letter],
        words=sample.words_of(letter, held_out=True),
        probe_f1=float(probes.f1[n]),
        probe_auroc=float(probes.auroc[n]),
        main=main,
        main_f1=main_f1,
        silent=_by_word(sample, seen, silent),
        absorbed=_by_word(sample, seen, absorbed),
        occurrences=int(seen.sum()),
    )


def _by_word(sample: WordSample, seen: Tensor, hit: Tensor) -> float:
    """Return the mean over words of the share of their seen occurrences that are hits."""
    count = torch.bincount(sample.word[seen], minlength=len(sample.words))
    hits = torch.bincount(sample.word[seen & hit], minlength=len(sample.words))
    there = count > 0
    return float((hits[there].double() / count[there]).mean())


def _reason(sample: WordSample, probes: LetterProbes) -> str:
    if not sample.words:
        return "no token of the held-out text is a space and a word of ASCII letters"
    if len(probes.letters) < 2:
        return f"of {len(sample.words)} words that are one token, no two letters have {LEAST_WORDS} in each half"
    best = int(probes.f1.argmax())
    return (
        f"no probe reaches F1 {LEAST_F1:g} on words that it was not fitted on; the best, for "
        f"'{LETTERS[int(probes.letters[best])]}', has {float(probes.f1[best]):.2f}"
    )


def _mean(values: list[float]) -> float:
    return sum(values) / len(values) if values else float("nan")
