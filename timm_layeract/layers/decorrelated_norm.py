"""Decorrelated BatchNorm (Huang et al. 2018): ZCA whitening over the batch."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx, once_differentiable

from .._utils.timm_types import DeviceAndDtype
from .batch_statistics import BatchStatistics, computed_again

__all__ = ["DecorrelatedBatchNorm2d", "inverse_square_root"]


class _InverseSquareRoot(torch.autograd.Function):
    """S^(-1/2) of symmetric positive matrices.

    Its derivative is taken by divided differences of ``l^(-1/2)`` (Daleckii and Krein), which for eigenvalues a and b
    are ``-1 / (sqrt(a b) (sqrt(a) + sqrt(b)))``: finite where they coincide, unlike the derivatives of eigenvectors.
    """

    @staticmethod
    def forward(ctx: Any, matrix: Tensor) -> Tensor:
        values, vectors = torch.linalg.eigh(matrix)
        roots = values.sqrt()
        ctx.save_for_backward(roots, vectors)
        return (vectors / roots[..., None, :]) @ vectors.mT

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, grad: Tensor) -> Tensor:
        roots, vectors = ctx.saved_tensors  # type: ignore[attr-defined]
        rows, columns = roots[..., :, None], roots[..., None, :]
        within = vectors.mT @ ((grad + grad.mT) / 2) @ vectors
        return vectors @ (within / (-rows * columns * (rows + columns))) @ vectors.mT


def inverse_square_root(matrix: Tensor) -> Tensor:
    """S^(-1/2) of symmetric positive definite matrices ``(*, d, d)``; differentiable once, eigenvalues may coincide."""
    return _InverseSquareRoot.apply(matrix)


class DecorrelatedBatchNorm2d(BatchStatistics):
    """Whitens groups of channels over the batch, then applies a gain and a bias a channel.

    ``y = S^(-1/2) (x - mean)`` with S the covariance of the group's channels plus `eps` on its diagonal (ZCA; Huang et
    al. 2018, section 3). In evaluation with running averages of the mean and of ``S^(-1/2)``. Statistics are taken in
    float32 or wider, as `BatchStatistics` says.

    Args:
        num_features: Channels.
        group_size: Channels that are whitened together, at most; the groups share the channels evenly.
        eps: Added to the diagonal of the covariance.
        momentum: Weight of a new batch in the running averages.

    Shape: ``(N, C, H, W)`` in and out.

    Raises:
        ValueError: `num_features` is no multiple of the group's size.
    """

    running_mean: Tensor
    running_projection: Tensor
    num_batches_tracked: Tensor

    def __init__(
        self,
        num_features: int,
        group_size: int = 16,
        eps: float = 1e-5,
        momentum: float = 0.1,
        device: Any = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        size = min(group_size, num_features)
        if size < 1 or num_features % size:
            raise ValueError(f"{num_features} channels do not fall into groups of {group_size}: choose a divisor.")
        dd: DeviceAndDtype = {"device": device, "dtype": dtype}
        self.num_features = num_features
        self.group_size = size
        self.eps = eps
        self.momentum = momentum
        self.weight = nn.Parameter(torch.ones(num_features, **dd))
        self.bias = nn.Parameter(torch.zeros(num_features, **dd))
        self.register_buffer("running_mean", torch.zeros(num_features, **dd))
        self.register_buffer("running_projection", torch.eye(size, **dd).repeat(num_features // size, 1, 1))
        self.register_buffer("num_batches_tracked", torch.zeros((), dtype=torch.long, device=device))

    def forward(self, x: Tensor) -> Tensor:
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        if torch.jit.is_scripting():
            y = self._whitened(wide)
        else:
            with torch.autocast(x.device.type, enabled=False):  # which would round the products
                y = self._whitened(wide)
        return (y * self.weight[:, None, None] + self.bias[:, None, None]).to(x.dtype)

    def _whitened(self, x: Tensor) -> Tensor:
        mean, projection = self._batch_statistics(x) if self.training else self._running(x)
        whitened = projection @ self._grouped(x - mean[:, None, None])
        return whitened.view(x.shape[1], x.shape[0], x.shape[2], x.shape[3]).transpose(0, 1)

    def _grouped(self, x: Tensor) -> Tensor:
        """``(N, C, H, W)`` as ``(groups, group_size, N H W)``."""
        return x.transpose(0, 1).reshape(self.num_features // self.group_size, self.group_size, -1)

    def _running(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.running_mean.to(x.dtype), self.running_projection.to(x.dtype)

    @torch.jit.unused
    def _batch_statistics(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and whitening matrices of the batch; counts it into the running ones."""
        count, mean, _ = self._channel_statistics(x)
        centred = self._grouped(x - mean[:, None, None])
        covariance = self._sum(centred @ centred.mT) / count
        identity = torch.eye(self.group_size, dtype=x.dtype, device=x.device)
        projection = inverse_square_root(covariance + self.eps * identity)
        if not computed_again():
            with torch.no_grad():
                self.running_mean.lerp_(mean.to(self.running_mean.dtype), self.momentum)
                self.running_projection.lerp_(projection.to(self.running_projection.dtype), self.momentum)
                self.num_batches_tracked.add_(1)
        return mean, projection

    def extra_repr(self) -> str:
        return f"{self.num_features}, group_size={self.group_size}, eps={self.eps:g}, momentum={self.momentum:g}"
