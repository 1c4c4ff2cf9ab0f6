"""The kept (row, latent, value) triples: all that is decoded and differentiated after selection."""

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Triples:
    """Activations that survived selection, ordered by latent, then by row.

    On CUDA the number of triples is fixed, so that nothing waits for a count: the surplus has value 0.
    """

    rows: Tensor
    """[n] int64, row of the local batch."""
    latents: Tensor
    """[n] int64, 0..m-1, ascending."""
    values: Tensor
    """[n] activations."""
    smallest: Tensor
    """[] smallest positive kept activation of all ranks; 0 if there is none."""
