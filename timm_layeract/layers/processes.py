"""Statistics over the processes of a distributed run. Imports torch."""

import torch
import torch.distributed as dist
from torch import Tensor

__all__ = ["gather", "several_processes"]


def several_processes() -> bool:
    """Whether this process is one of several that train together."""
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def gather(x: Tensor) -> Tensor:
    """`x` of every process, stacked in the order of their ranks, without gradient; of shape ``(processes, *)``."""
    if not several_processes():
        return x[None]
    parts = [torch.empty_like(x) for _ in range(dist.get_world_size())]
    dist.all_gather(parts, x.contiguous())
    return torch.stack(parts)
