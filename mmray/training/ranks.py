"""Who this process is among the workers of one training run, and how they exchange small values."""

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

__all__ = ["Worker"]

V = TypeVar("V")


@dataclass(frozen=True)
class Worker:
    """Worker `rank` of `world_size`, on `device`; more than one need an initialised process group."""

    rank: int = 0
    world_size: int = 1
    device: str = "cpu"

    def wrap(self, model: nn.Module) -> nn.Module:
        """The model with gradients averaged over the workers."""
        if self.world_size == 1:
            return model
        on_gpu = torch.device(self.device).type == "cuda"
        return DistributedDataParallel(
            model, device_ids=[self.device] if on_gpu else None, broadcast_buffers=False
        )

    def exchange(self, model: nn.Module, *, last: bool) -> AbstractContextManager:
        """Around forward and backward of a part of a batch: gradients are averaged in the last part only."""
        if isinstance(model, DistributedDataParallel) and not last:
            return model.no_sync()
        return nullcontext()

    def gather(self, value: V) -> list[V]:
        """Every worker's value, in the order of the ranks, on every worker."""
        if self.world_size == 1:
            return [value]
        values = [value] * self.world_size
        dist.all_gather_object(values, value)
        return values

    def from_first(self, value: V) -> V:
        """Rank 0's value, on every worker."""
        if self.world_size == 1:
            return value
        box = [value]
        dist.broadcast_object_list(box, src=0)
        return box[0]
