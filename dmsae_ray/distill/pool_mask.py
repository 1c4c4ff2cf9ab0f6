"""Which activations of the candidate pool count when latents are scored (z of Eq. 6)."""

from typing import Literal, get_args

import torch
from torch import Tensor

from dmsae_ray.distill.attribution_set import AttributionSet, blocks
from dmsae_ray.errors import ConfigError
from dmsae_ray.sae import MatryoshkaSAE

Mask = Literal["threshold", "batch_topk"]
MASKS: tuple[str, ...] = get_args(Mask)

_LOW_BITS = 15
_BINS = 1 << 16


def check_mask(mask: str) -> None:
    """Check the name of a mask.

    Raises:
        ConfigError: it is unknown.
    """
    if mask not in MASKS:
        raise ConfigError(f"mask: {mask!r} is unknown; known are {', '.join(MASKS)}")


@torch.no_grad()
def mask_thresholds(sae: MatryoshkaSAE, pairs: AttributionSet, pool: int, mask: str, chunk: int) -> Tensor:
    """Return the threshold of each latent of the pool: what is above it counts.

    - threshold: that of inference, theta, as z in the reconstruction (our reading of Eq. 6).
    - batch_topk: BatchTopK over the pool alone (another reading of what the paper says before Eq. 6), with the
      attribution set as its batch: of n tokens the k n largest activations of the pool count, or beside a dense core,
      which is exempt, the k' n largest of the others (Eq. 4). Other groups do not compete, so more latents of the pool
      count than at inference.

    The k n-th largest value is exact: it is found from its bits, in two passes over the set, in little memory. Of
    values that equal it all count.

    Args:
        sae: takes raw activations.
        pairs: the attribution set.
        pool: number of latents in the pool.
        mask: one of MASKS.
        chunk: tokens that are read at a time.

    Returns:
        float32 [pool] on the SAE's device.

    Raises:
        ConfigError: the mask is unknown.
        DataError: the pairs do not fit the SAE.
    """
    check_mask(mask)
    thresholds = sae.threshold[:pool].clone()
    if mask == "batch_topk" and pool > sae.n_dense:
        thresholds[sae.n_dense :] = _below_largest(sae, pairs, pool, sae.topk_budget * len(pairs), chunk)
    return thresholds


def _below_largest(sae: MatryoshkaSAE, pairs: AttributionSet, pool: int, count: int, chunk: int) -> float:
    """Return the number below the count-th largest positive activation of rows n_dense..pool-1; 0 if there are less."""
    high, above = _bin_of(_histogram(sae, pairs, pool, chunk, None), count)
    if high is None:
        return 0.0
    low, _ = _bin_of(_histogram(sae, pairs, pool, chunk, high), count - above)
    assert low is not None, "the bin holds the value"
    # The bits of floats of one sign are ordered as the floats: one less is the next smaller number.
    bits = torch.tensor([(high << _LOW_BITS | low) - 1], dtype=torch.int32)
    return float(bits.view(torch.float32))


def _histogram(sae: MatryoshkaSAE, pairs: AttributionSet, pool: int, chunk: int, high: int | None) -> Tensor:
    """Count positive activations by their high 16 bits, or those with the high bits `high` by their low 15."""
    counts = torch.zeros(_BINS, dtype=torch.int64, device=sae.W_enc.device)
    for _, x, _ in blocks(pairs, chunk, sae.d_model):
        u = sae.pre_activations(x.to(sae.W_enc.device, torch.float32), sae.n_dense, pool).float()
        bits = u[u > 0].view(torch.int32)
        found = bits >> _LOW_BITS if high is None else bits[bits >> _LOW_BITS == high] & ((1 << _LOW_BITS) - 1)
        counts += torch.bincount(found, minlength=_BINS)
    return counts.cpu()


def _bin_of(counts: Tensor, count: int) -> tuple[int | None, int]:
    """Return the bin of the count-th largest value, and how many are in higher bins; None if there are less."""
    above = counts.flip(0).cumsum(0)
    if int(above[-1]) < count:
        return None, 0
    place = int(torch.searchsorted(above, count))
    return len(counts) - 1 - place, int(above[place - 1]) if place else 0
