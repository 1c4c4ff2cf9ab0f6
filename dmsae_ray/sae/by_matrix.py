"""Decode and differentiate the kept activations as a matrix [m, b]: the cost does not depend on their number."""

from collections.abc import Iterator

import torch
from torch import Tensor

from dmsae_ray.sae.dictionary import MatryoshkaSAE
from dmsae_ray.sae.gradients import Gradients, row_blocks
from dmsae_ray.sae.product import product
from dmsae_ray.sae.triples import Triples

ON_CPU = 1 / 4
"""Kept share of [b, m] above which the matrix is faster than the triples on the CPU, as measured.

The measurement is in tests/benchmarks/results/decode_cpu.json. No setting of the paper comes near this share (640 of
65,536 is 1 / 102).
"""
ON_CUDA_FLOAT32 = 1 / 32
ON_CUDA_LOW = 1 / 512
"""The same on CUDA, for float32 and for low-precision factors; both are estimates.

A kept triple costs four gathers of 4 d bytes. An element of the matrix costs four products of 2 d FLOP. 16 d B k bytes
at 4 TB/s take as long as 8 d B m FLOP at 700 TFLOP/s (bfloat16) where k / m = 1 / 350, and at 50 TFLOP/s (float32)
where k / m = 1 / 25. Gathers do not reach the rate of a copy, so both shares are a little below these.
"""


def matrix_is_faster(n_triples: int, b: int, n_topk: int, device: torch.device, low: torch.dtype | None) -> bool:
    """Return whether `n_triples` kept of [b, n_topk] are so many that the matrix is faster; low: see `product`."""
    on_cuda = ON_CUDA_FLOAT32 if low is None else ON_CUDA_LOW
    return n_triples > (ON_CPU if device.type == "cpu" else on_cuda) * b * n_topk


class ByMatrix:
    """Does the same as `ByTriples`, by products of matrices whose factors are rounded to `low`, see `product`."""

    def __init__(self, sae: MatryoshkaSAE, kept: Triples, b: int, low: torch.dtype | None) -> None:
        self._sae, self._b, self._low = sae, b, low
        self._first = sae.n_dense
        dtype = sae.W_dec.dtype if low is None else low
        self._z = torch.zeros(sae.n_topk, b, dtype=dtype, device=sae.W_dec.device)
        place = (kept.latents - self._first) * b + kept.rows
        self._z.view(-1).scatter_(0, place, kept.values.to(dtype))

    def decode(self) -> Tensor:
        """Return what each group adds to each row: [groups, b, d]."""
        sae = self._sae
        groups = len(sae.group_sizes)
        parts = sae.W_dec.new_empty(groups, self._b, sae.d_model)
        for group, start, stop in self._group_edges():
            z = self._z[start - self._first : stop - self._first]
            product(z.T, sae.W_dec[start:stop], self._low, out=parts[group])
        return parts

    def write(self, gradients: Gradients, centred: Tensor, pushes: Tensor) -> None:
        """Overwrite the gradients of W_enc, b_enc and W_dec, as `ByTriples.write`; those of a dense core become 0."""
        sae, n_core = self._sae, self._sae.n_core
        gradients.W_dec[: self._first].zero_()
        gradients.b_enc[: self._first].zero_()
        if self._low is not None:
            centred = centred.to(self._low)
        for group, start, stop in self._group_edges():
            push = pushes[group] if self._low is None else pushes[group].to(self._low)
            for low, high in row_blocks(stop - start, self._b, centred.device):
                a, e = start + low, start + high
                z = self._z[a - self._first : e - self._first]
                product(z, push, self._low, out=gradients.W_dec[a:e])
                d_z = product(sae.W_dec[a:e], push.T, self._low).masked_fill_(z <= 0, 0)
                torch.sum(d_z, 1, out=gradients.b_enc[a:e])
                frozen = max(0, n_core - a)
                if frozen < e - a:
                    product(d_z[frozen:], centred, self._low, out=gradients.W_enc[a + frozen - n_core : e - n_core])

    def _group_edges(self) -> Iterator[tuple[int, int, int]]:
        """Yield (group, first latent, last + 1) of the latents under BatchTopK; a sparse core is in the first group."""
        start = self._first
        for group, size in enumerate(self._sae.prefix_sizes):
            stop = self._sae.n_core + size
            yield group, start, stop
            start = stop
