"""What layers with statistics of the batch share: taking them over all processes, and when to."""

import torch
import torch.distributed as dist
from torch import Tensor

from ..compat.torch import in_backward
from ..definition.moments import mean_and_variance

__all__ = ["channel_statistics", "computed_again", "gather", "sum_over_processes"]


def computed_again() -> bool:
    """Whether a checkpointed block is being computed again in backward, so that its batch has been counted already."""
    return not torch.compiler.is_compiling() and in_backward()


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


class _AllReduce(torch.autograd.Function):
    """The sum over processes, whose gradient is the sum of theirs."""

    @staticmethod
    def forward(x: Tensor) -> Tensor:
        total = x.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def setup_context(ctx: torch.autograd.function.FunctionCtx, inputs: tuple[Tensor], output: Tensor) -> None:
        pass

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, grad: Tensor) -> Tensor:
        return _AllReduce.apply(grad.contiguous())


def sum_over_processes(x: Tensor) -> Tensor:
    """The sum of `x` over all processes, differentiable; `x` itself where there is one."""
    return _AllReduce.apply(x) if several_processes() else x


def channel_statistics(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Number of values a channel, mean and population variance of each channel, over all processes; differentiable.

    Args:
        x: ``(N, C, *)`` in float32 or wider.

    Raises:
        ValueError: There is one value a channel only, so no variance.
    """
    over = [0, *range(2, x.dim())]
    values = x.numel() // max(x.shape[1], 1)
    if not several_processes():
        if values < 2:
            raise ValueError(f"Expected more than one value a channel in training, got an input of {list(x.shape)}.")
        return x.new_tensor(values), *mean_and_variance(x, over)
    count = sum_over_processes(x.new_tensor(values))
    mean = sum_over_processes(x.sum(over)) / count
    centred = x - mean.view(-1, *(1,) * (x.dim() - 2))
    return count, mean, sum_over_processes(centred.square().sum(over)) / count
