"""The method in plain Python and NumPy, written from the paper. Slow, dense, sharing no code with the package."""

import math

import numpy as np


def quantile(values, q):
    """Linear interpolation between order statistics (torch.quantile, numpy's default)."""
    ordered = sorted(float(v) for v in values)
    position = q * (len(ordered) - 1)
    low = math.floor(position)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (position - low)


def attribution(w_enc, b_enc, w_dec, b_dec, threshold, x, g, pool, q):
    """Eq. 6 with the inference mask u > threshold: a list of `pool` scores."""
    scores = []
    for i in range(pool):
        direction = w_dec[i] / np.linalg.norm(w_dec[i])
        a = []
        for x_t, g_t in zip(x, g, strict=True):
            u = max(0.0, float((x_t - b_dec) @ w_enc[i] + b_enc[i]))
            z = u if u > threshold[i] else 0.0
            a.append(abs(float(g_t @ direction)) * z)
        scores.append(quantile(a, q))
    return scores


def select(scores, coverage):
    """Eq. 7: shortest prefix of the descending order that reaches coverage * total; ties lower index first."""
    order = sorted((i for i, s in enumerate(scores) if s > 0), key=lambda i: (-scores[i], i))
    total = 0.0
    for i in order:
        total += scores[i]
    chosen, reached = [], 0.0
    for i in order:
        chosen.append(i)
        reached += scores[i]
        if reached >= coverage * total:
            break
    return chosen


class Lineage:
    """Follows latents by the bytes of their encoder rows instead of by ids."""

    def __init__(self):
        self.cores = []

    def add(self, rows):
        self.cores.append([np.asarray(r, dtype=np.float32).tobytes() for r in rows])

    def carried(self, cycle):
        return len(set(self.cores[cycle]) & set(self.cores[cycle - 1]))

    def distilled(self, last=None):
        span = self.cores if last is None else self.cores[-last:]
        return [r for r in self.cores[-1] if all(r in core for core in span)]

    def survivors(self, birth):
        born = [r for r in self.cores[birth] if birth == 0 or r not in self.cores[birth - 1]]
        return [sum(r in core for r in born) for core in self.cores[birth:]]
