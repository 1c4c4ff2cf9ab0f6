"""The k-th largest of positive numbers on several ranks, without sorting; on CUDA nothing is read by the host."""

import torch
from torch import Tensor

from dmsae_ray.sae.ranks import RankGroup

_DIGIT_BITS = 16


def kth_largest(values: Tensor, k: int, ranks: RankGroup) -> tuple[Tensor, Tensor]:
    """Return the k-th largest value of all ranks, and how many values equal to it are among the k largest.

    One process on the CPU uses a partial selection. Otherwise it is a radix selection with 16 bits per round: float32
    needs two sums of 65,536 counts over the ranks, whatever the number of values is.

    Args:
        values: [n], positive floats of this rank, whose bits therefore sort as integers; zeros count as numbers too.
        k: over all ranks.
        ranks: the ranks.

    Returns:
        The cutoff [], and the number of ties [] that are among the k. If there are fewer than k values in all, the
        cutoff is the smallest value and all ties count.
    """
    if ranks.size == 1 and values.device.type == "cpu":
        if not len(values):
            return values.new_zeros(()), torch.zeros((), dtype=torch.int64)
        k = min(k, len(values))
        cutoff = values.kthvalue(len(values) - k + 1).values
        return cutoff, k - (values > cutoff).sum()
    bits = torch.int32 if values.dtype == torch.float32 else torch.int64
    keys = values.contiguous().view(bits).to(torch.int64)
    total = ranks.sum(torch.full((), len(values), dtype=torch.int64, device=values.device))
    wanted = total.clamp(max=k)
    prefix = torch.zeros((), dtype=torch.int64, device=values.device)
    radix = 1 << _DIGIT_BITS
    for shift in range(torch.iinfo(bits).bits - _DIGIT_BITS, -1, -_DIGIT_BITS):
        digits = (keys >> shift) & (radix - 1)
        # A shift by the full width is undefined; in the first round every value is still a candidate.
        top = shift + _DIGIT_BITS == torch.iinfo(bits).bits
        inside = torch.ones_like(keys, dtype=torch.bool) if top else (keys >> (shift + _DIGIT_BITS)) == prefix
        counts = torch.zeros(radix, dtype=torch.int64, device=values.device)
        ranks.sum(counts.index_add_(0, digits, inside.to(torch.int64)))
        from_top = counts.flip(0).cumsum(0)
        place = torch.searchsorted(from_top, wanted).clamp(max=radix - 1)
        # gather, because an index that is a tensor of one number would be read by the host.
        above = from_top.gather(0, (place - 1).clamp(min=0).reshape(1)).reshape(())
        wanted = wanted - torch.where(place > 0, above, 0)
        prefix = (prefix << _DIGIT_BITS) | (radix - 1 - place)
    return prefix.to(bits).reshape(1).view(values.dtype).reshape(()), wanted
