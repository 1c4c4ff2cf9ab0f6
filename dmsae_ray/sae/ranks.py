"""Sums, minima and maxima over the processes that share one SAE training; a single process is a group of one."""

import torch
import torch.distributed as dist
from torch import Tensor


class RankGroup:
    """The processes of `group`, or this process alone if it is None. All methods are collective."""

    def __init__(self, group: dist.ProcessGroup | None) -> None:
        self._group = group
        self.size = 1 if group is None else dist.get_world_size(group)
        self.rank = 0 if group is None else dist.get_rank(group)

    def sum(self, value: Tensor) -> Tensor:
        """Sum `value` over the ranks, in place, and return it."""
        if self.size > 1:
            dist.all_reduce(value, dist.ReduceOp.SUM, group=self._group)
        return value

    def minimum(self, value: Tensor) -> Tensor:
        """Take the elementwise minimum over the ranks, in place, and return it."""
        if self.size > 1:
            dist.all_reduce(value, dist.ReduceOp.MIN, group=self._group)
        return value

    def maximum(self, value: Tensor) -> Tensor:
        """Take the elementwise maximum over the ranks, in place, and return it."""
        if self.size > 1:
            dist.all_reduce(value, dist.ReduceOp.MAX, group=self._group)
        return value

    def before(self, count: Tensor) -> Tensor:
        """Return the sum of `count` [] over the ranks before this one."""
        if self.size == 1:
            return torch.zeros_like(count)
        counts = torch.zeros(self.size, dtype=count.dtype, device=count.device)
        counts[self.rank] = count
        return self.sum(counts)[: self.rank].sum()
