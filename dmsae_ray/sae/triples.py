"""The kept (row, latent, value) triples: after selection, only these are decoded and differentiated."""

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Triples:
    """The activations that selection kept, ordered by latent, then by row.

    On CUDA the number of triples is fixed, so that nothing waits for a count; surplus triples have value 0.
    """

    rows: Tensor
    """[n] int64, row in the local batch."""
    latents: Tensor
    """[n] int64, 0..m-1, ascending."""
    values: Tensor
    """[n] activations."""
    smallest: Tensor
    """[] smallest positive kept activation of all ranks; 0 if there is none."""
