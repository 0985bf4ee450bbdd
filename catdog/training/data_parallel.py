"""Training one model on several processes: each computes its share of every batch, and gradients are averaged.

All processes hold the same weights and draw the same order of images, the same crops and the same mixing, whatever
their number. What differs with it: the order in which sums are taken; batch norms that learn, and losses that compare
the images of a batch, see a process's share only; dropout draws other values on each process. Statistics of batch norms
that learn are the first process's.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import TypeVar

import torch
from torch import nn
from torch.utils._pytree import tree_map_only

from catdog.errors import UserError

T = TypeVar("T")


@dataclass(frozen=True)
class Workers:
    """The processes that train a model together, seen from one of them; alone, none of this does anything."""

    index: int = 0
    count: int = 1

    @property
    def shard(self) -> tuple[int, int]:
        """Return which share of how many this process computes."""
        return self.index, self.count

    def share_of(self, batch: torch.Tensor) -> torch.Tensor:
        """Return this process's rows of a batch."""
        return batch.chunk(self.count)[self.index]

    def require_shares(self, batch_size: int) -> None:
        """Raise `UserError` unless every process can have an equal share of a batch."""
        if batch_size % self.count:
            raise UserError(
                f"a batch of {batch_size} images cannot be shared equally by the {self.count} workers of a trial: "
                "choose another --batch-size or number of workers"
            )

    def averaging(self, network: nn.Module) -> nn.Module:
        """Return the network, whose gradients are from now on the mean over all processes."""
        if self.count == 1:
            return network
        # A head may leave parameters unused in some steps, as it may on one process.
        return nn.parallel.DistributedDataParallel(network, find_unused_parameters=True)

    def share_buffers(self, network: nn.Module) -> None:
        """Give all processes the first one's buffers, which training shares at the beginning of a step only."""
        if self.count > 1:
            for buffer in network.buffers():
                torch.distributed.broadcast(buffer, src=0)

    def mean(self, *values: float) -> tuple[float, ...]:
        """Return the mean of each value over all processes."""
        if self.count == 1:
            return values
        total = torch.tensor(values, dtype=torch.float64)
        torch.distributed.all_reduce(total)
        return tuple((total / self.count).tolist())

    def any(self, wanted: bool) -> bool:
        """Return whether any of the processes wants it: they agree, or one would wait for the others for ever."""
        return max(self.mean(float(wanted))) > 0

    def all_of(self, shares: Sequence[T]) -> list[T]:
        """Return the items of all processes, of which process i has the items i, i + count, ... in `shares`.

        Tensors of several processes come back on the CPU.
        """
        if self.count == 1:
            return list(shares)
        mine = tree_map_only(torch.Tensor, torch.Tensor.cpu, list(shares))  # a tensor arrives on the device it left
        everybody: list[Sequence[T]] = [()] * self.count
        torch.distributed.all_gather_object(everybody, mine)
        rounds = zip_longest(*([(item,) for item in share] for share in everybody), fillvalue=())
        return [item for one in rounds for some in one for item in some]


ALONE = Workers()
