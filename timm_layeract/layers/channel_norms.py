"""Switchable and instance-enhancement normalisation: BatchNorm's statistics and more.

Luo et al. 2019, "Switchable normalization for learning-to-normalize deep representation"; Liang et al. 2020, "Instance
enhancement batch normalization: an adaptive regulator of batch noise"; both in appendix F of the LayerAct paper (v3).
"""

from typing import Any

import torch
from torch import Tensor, nn

from ..definition.moments import mean_and_variance
from .batch_statistics import BatchStatistics, computed_again

__all__ = ["IEBN2d", "SwitchNorm2d"]


class _ChannelNorm(BatchStatistics):
    """Gain, bias and running statistics a channel; those of a batch as in `BatchStatistics`.

    Args:
        num_features: Channels.
        eps: Added to the variance.
        momentum: Weight of a new batch in the running mean and variance (the unbiased one, as in BatchNorm).

    Shape: ``(N, C, H, W)`` in and out; computed in float32 or wider.
    """

    running_mean: Tensor
    running_var: Tensor
    num_batches_tracked: Tensor

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float = 0.1,
        device: Any = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.num_features = num_features
        self.eps = eps
        self.momentum = momentum
        self.weight = nn.Parameter(torch.ones(num_features, device=device, dtype=dtype))
        self.bias = nn.Parameter(torch.zeros(num_features, device=device, dtype=dtype))
        self.register_buffer("running_mean", torch.zeros(num_features, device=device, dtype=dtype))
        self.register_buffer("running_var", torch.ones(num_features, device=device, dtype=dtype))
        self.register_buffer("num_batches_tracked", torch.zeros((), dtype=torch.long, device=device))

    def _statistics(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and variance of each channel: of the batch in training, else the running ones."""
        return self._batch_statistics(x) if self.training else (self.running_mean, self.running_var)

    @torch.jit.unused
    def _batch_statistics(self, x: Tensor) -> tuple[Tensor, Tensor]:
        count, mean, var = self._channel_statistics(x)
        if not computed_again():
            with torch.no_grad():
                self.running_mean.lerp_(mean.to(self.running_mean.dtype), self.momentum)
                unbiased = var * (count / (count - 1))
                self.running_var.lerp_(unbiased.to(self.running_var.dtype), self.momentum)
                self.num_batches_tracked.add_(1)
        return mean, var

    def extra_repr(self) -> str:
        return f"{self.num_features}, eps={self.eps:g}, momentum={self.momentum:g}"


class SwitchNorm2d(_ChannelNorm):
    """Normalises by a learnt mixture of instance, layer and batch statistics (Luo et al. 2019).

    The mean is ``w1 mean_IN + w2 mean_LN + w3 mean_BN`` with softmax weights over three learnt numbers, the variance
    the same with three others. Arguments and shape as `_ChannelNorm`.

    Attributes:
        mean_weight: The numbers behind the weights of the means (instance, layer, batch), ``(3,)``.
        var_weight: The same of the variances.
    """

    def __init__(self, num_features: int, eps: float = 1e-5, momentum: float = 0.1, **dd: Any) -> None:
        super().__init__(num_features, eps, momentum, **dd)
        self.mean_weight = nn.Parameter(torch.ones(3, **dd))
        self.var_weight = nn.Parameter(torch.ones(3, **dd))

    def forward(self, x: Tensor) -> Tensor:
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        instance_mean, instance_var = mean_and_variance(wide, [2, 3])
        layer_mean = instance_mean.mean(1, keepdim=True)
        layer_var = (instance_var + (instance_mean - layer_mean).square()).mean(1, keepdim=True)
        batch_mean, batch_var = self._statistics(wide)
        mean_weight, var_weight = self.mean_weight.softmax(0), self.var_weight.softmax(0)
        mean = mean_weight[0] * instance_mean + mean_weight[1] * layer_mean + mean_weight[2] * batch_mean
        var = var_weight[0] * instance_var + var_weight[1] * layer_var + var_weight[2] * batch_var
        scale = self.weight * (var + self.eps).rsqrt()
        return ((wide - mean[:, :, None, None]) * scale[:, :, None, None] + self.bias[:, None, None]).to(x.dtype)


class IEBN2d(_ChannelNorm):
    """BatchNorm whose gain each sample adjusts by the mean of its channel (Liang et al. 2020).

    ``weight * sigmoid(gate_weight * mean(x) + gate_bias) * n + bias``, n normalised over the batch and ``mean(x)`` the
    sample's channel mean. Arguments and shape as `_ChannelNorm`.

    Attributes:
        gate_weight: ``(C,)``, starts at 0.
        gate_bias: ``(C,)``, starts at -1.
    """

    def __init__(self, num_features: int, eps: float = 1e-5, momentum: float = 0.1, **dd: Any) -> None:
        super().__init__(num_features, eps, momentum, **dd)
        self.gate_weight = nn.Parameter(torch.zeros(num_features, **dd))
        self.gate_bias = nn.Parameter(torch.full((num_features,), -1.0, **dd))

    def forward(self, x: Tensor) -> Tensor:
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        mean, var = self._statistics(wide)
        gate = torch.sigmoid(self.gate_weight * wide.mean([2, 3]) + self.gate_bias)
        scale = self.weight * gate * (var + self.eps).rsqrt()
        return ((wide - mean[:, None, None]) * scale[:, :, None, None] + self.bias[:, None, None]).to(x.dtype)
