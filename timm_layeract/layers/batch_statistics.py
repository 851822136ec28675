"""What layers with statistics of the batch share: over which processes they are taken, and when."""

import torch
import torch.distributed as dist
from torch import Tensor, nn

from ..compat.torch import in_backward
from ..definition.moments import mean_and_variance

__all__ = ["BatchStatistics", "computed_again", "synchronize_statistics"]


def computed_again() -> bool:
    """Whether a checkpointed block is being computed again in backward, so that its batch has been counted already."""
    return not torch.compiler.is_compiling() and in_backward()


class BatchStatistics(nn.Module):
    """A layer that takes statistics of the batch: of this process's part of it, as BatchNorm does, unless synchronized.

    Attributes:
        synchronized: Take them over all processes of `process_group`, all of which must then run the layer together.
        process_group: None for all processes, as in `torch.nn.SyncBatchNorm`.
    """

    synchronized: bool = False
    process_group: "dist.ProcessGroup | None" = None

    def _alone(self) -> bool:
        """Whether statistics are those of this process."""
        if not self.synchronized or not dist.is_available() or not dist.is_initialized():
            return True
        return dist.get_world_size(self.process_group) == 1

    def _gather(self, x: Tensor) -> Tensor:
        """`x` of every process, stacked in the order of their ranks, without gradient; of shape ``(processes, *)``."""
        if self._alone():
            return x[None]
        parts = [torch.empty_like(x) for _ in range(dist.get_world_size(self.process_group))]
        dist.all_gather(parts, x.contiguous(), group=self.process_group)
        return torch.stack(parts)

    def _sum(self, x: Tensor) -> Tensor:
        """The sum of `x` over the processes, differentiable; `x` itself where there is one."""
        return x if self._alone() else _AllReduce.apply(x, self.process_group)

    def _channel_statistics(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Number of values a channel, mean and population variance of each channel; differentiable.

        Args:
            x: ``(N, C, *)`` in float32 or wider.

        Raises:
            ValueError: There is one value a channel only, so no variance.
        """
        over = [0, *range(2, x.dim())]
        values = x.numel() // max(x.shape[1], 1)
        if self._alone():
            if values < 2:
                raise ValueError(
                    f"Expected more than one value a channel in training, got an input of {list(x.shape)}."
                )
            return x.new_tensor(values), *mean_and_variance(x, over)
        count = self._sum(x.new_tensor(values))
        mean = self._sum(x.sum(over)) / count
        centred = x - mean.view(-1, *(1,) * (x.dim() - 2))
        return count, mean, self._sum(centred.square().sum(over)) / count


def synchronize_statistics(network: nn.Module, process_group: "dist.ProcessGroup | None" = None) -> nn.Module:
    """Take the batch statistics of our layers over several processes, as `SyncBatchNorm` does BatchNorm's; in place.

    For normalized activations, switchable, instance-enhancement and decorrelated normalisation: each then computes in
    training what one process would with the whole batch. BatchNorm itself is torch's to convert
    (``nn.SyncBatchNorm.convert_sync_batchnorm``). As with it, every process of the group must run every training
    forward, so that a process that runs out of data (`Join`) or runs alone makes the others wait.

    Args:
        network: The network, or a layer.
        process_group: The processes; None for all.

    Returns:
        `network`.
    """
    for module in network.modules():
        if isinstance(module, BatchStatistics):
            module.synchronized, module.process_group = True, process_group
    return network


class _AllReduce(torch.autograd.Function):
    """The sum over processes, whose gradient is the sum of theirs."""

    @staticmethod
    def forward(x: Tensor, group: "dist.ProcessGroup | None") -> Tensor:
        total = x.clone()
        dist.all_reduce(total, group=group)
        return total

    @staticmethod
    def setup_context(
        ctx: torch.autograd.function.FunctionCtx, inputs: "tuple[Tensor, dist.ProcessGroup | None]", output: Tensor
    ) -> None:
        ctx.group = inputs[1]  # type: ignore[attr-defined]

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, grad: Tensor) -> tuple[Tensor, None]:
        return _AllReduce.apply(grad.contiguous(), ctx.group), None  # type: ignore[attr-defined]
