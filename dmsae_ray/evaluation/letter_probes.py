"""Linear probes for the first letter of a word, fitted on one half of the words and tested on the other."""

from dataclasses import dataclass

import torch
from torch import Tensor

from dmsae_ray.evaluation.word_sample import LETTERS, WordSample

LEAST_WORDS = 5
"""Words that a letter needs in each half to have a probe."""
_SHRINKAGE = 0.1
_ROWS = 4096


@dataclass(frozen=True, eq=False)
class LetterProbes:
    """Linear probes of the letters that have enough words, and how well they do on the second half of the words.

    Attributes:
        letters: int64 [p], the letters, ascending.
        directions: float64 [p, d_model], unit vectors: along them a word with the letter differs from other words.
        centre: float64 [d_model], the mean activation over the words of the first half that begin with these letters.
        f1: float64 [p], F1 on the second half.
        auroc: float64 [p], area under the ROC curve on the second half.
        right: bool [n], the occurrences of the sample that are in the second half and whose letter the probes find.
    """

    letters: Tensor
    directions: Tensor
    centre: Tensor
    f1: Tensor
    auroc: Tensor
    right: Tensor


@torch.no_grad()
def fit_letter_probes(x: Tensor, sample: WordSample) -> LetterProbes:
    """Fit the probes: a linear discriminant, which needs no training and no step size.

    With the mean mu_c of letter c, the mean mu of all words and the covariance S within letters, the score of c at x is
    <w_c, x - mu> - <w_c, mu_c - mu> / 2 + log prior_c, with w_c = S^-1 (mu_c - mu). S is shrunk by a tenth toward its
    diagonal. The letter that is found is the one with the largest score. Every word counts once, however often it
    occurs. Words of letters without a probe are left out of fit and test.

    Args:
        x: [n, d_model], the activations at the occurrences.
        sample: what they are.
    """
    device, d = x.device, x.shape[1]
    letters = torch.tensor(
        [
            n
            for n in range(len(LETTERS))
            if min(sample.words_of(n, held_out=False), sample.words_of(n, held_out=True)) >= LEAST_WORDS
        ],
        dtype=torch.int64,
    )
    p = len(letters)
    place = torch.full((len(LETTERS),), -1)
    place[letters] = torch.arange(p)
    klass, weight = place[sample.letter].to(device), sample.weight.double().to(device)
    usable = klass >= 0
    fit, test = usable & ~sample.held_out.to(device), usable & sample.held_out.to(device)
    right = torch.zeros(len(x), dtype=torch.bool)
    if p < 2:  # there is nothing to tell apart
        nothing = torch.zeros(0, dtype=torch.float64)
        return LetterProbes(letters[:0], torch.zeros(0, d).double(), torch.zeros(d).double(), nothing, nothing, right)
    mass = torch.zeros(p, dtype=torch.float64, device=device).index_add_(0, klass[fit], weight[fit])
    means = torch.zeros(p, d, dtype=torch.float64, device=device)
    for rows in torch.split(fit.nonzero().view(-1), _ROWS):
        means.index_add_(0, klass[rows], weight[rows, None] * x[rows].double())
    centre = means.sum(dim=0) / mass.sum()
    means /= mass[:, None]
    within = torch.zeros(d, d, dtype=torch.float64, device=device)
    for rows in torch.split(fit.nonzero().view(-1), _ROWS):
        apart = x[rows].double() - means[klass[rows]]
        within += (weight[rows, None] * apart).T @ apart / mass.sum()
    spread = within.diagonal().clone()
    within = (1 - _SHRINKAGE) * within + torch.diag(_SHRINKAGE * spread + 1e-9 * spread.mean() + 1e-30)
    w = torch.linalg.solve(within, (means - centre).T)
    offset = (mass / mass.sum()).log() - ((means - centre) * w.T).sum(dim=1) / 2
    where = test.nonzero().view(-1)
    scores = torch.cat([(x[rows].double() - centre) @ w + offset for rows in torch.split(where, _ROWS)]).cpu()
    own, weights, found = klass[where].cpu(), weight[where].cpu(), scores.argmax(dim=1)
    right[where.cpu()] = found == own
    true, named = torch.zeros(p, dtype=torch.float64), torch.zeros(p, dtype=torch.float64)
    true.index_add_(0, own, weights)
    named.index_add_(0, found, weights)
    hits = torch.zeros(p, dtype=torch.float64).index_add_(0, own, weights * (found == own))
    return LetterProbes(
        letters=letters,
        directions=torch.nn.functional.normalize(w.T).cpu(),
        centre=centre.cpu(),
        f1=2 * hits / (true + named),
        auroc=torch.tensor([auroc(scores[:, n], own == n, weights) for n in range(p)], dtype=torch.float64),
        right=right,
    )


def auroc(scores: Tensor, positive: Tensor, weights: Tensor) -> float:
    """Return P(score of a positive > score of a negative) + P(equal) / 2, drawn by weight; NaN if one kind is missing.

    Args:
        scores: [n].
        positive: bool [n].
        weights: float64 [n].
    """
    order = scores[~positive].argsort()
    below, mass = scores[~positive][order], torch.cat([weights.new_zeros(1), weights[~positive][order].cumsum(0)])
    lower = mass[torch.searchsorted(below, scores[positive])]
    upper = mass[torch.searchsorted(below, scores[positive], right=True)]
    total = float(weights[positive].sum() * mass[-1])
    return float((weights[positive] * (lower + upper) / 2).sum()) / total if total > 0 else float("nan")
