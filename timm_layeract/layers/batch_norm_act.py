"""BatchNorm, an optional residual and LayerAct as one step: in one pass where kernels can, else one after the other."""

from typing import Any

import torch
from torch import Tensor, nn

from ..definition.composite import DEFAULT_ALPHA
from ..definition.scales import Scale
from ..kernels import batch_norm as fused
from ..kernels.dispatch import kernels_for, memory_format
from ..kernels.layer_act import fused_layer_act
from .layer_act import LAHardSiLU, LASiLU, LayerAct

__all__ = ["BatchNormLayerAct2d", "norm_act"]


class BatchNormLayerAct2d(nn.BatchNorm2d):
    """``LayerAct(BatchNorm2d(x) + residual)``, in one reading and one writing pass over memory each way.

    Args:
        num_features: Channels.
        scale: As `LayerAct`.
        alpha: As `LayerAct`; added to the variance of the layer, as `eps` is to that of the batch.
        affine_act: Give the LayerAct a gain and a bias a channel (v1, equation 4), as ``act.weight``, ``act.bias``.
        eps: As `torch.nn.BatchNorm2d`, like the rest.

    Shape: x and residual ``(N, C, H, W)``, as is the output.
    """

    def __init__(
        self,
        num_features: int,
        scale: Scale = "sigmoid",
        alpha: float = DEFAULT_ALPHA,
        affine_act: bool = False,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
        device: Any = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(num_features, eps, momentum, affine, track_running_stats, device=device, dtype=dtype)
        channels = num_features if affine_act else None
        self.act = LayerAct(scale, alpha, channels, device=device, dtype=dtype)

    def forward(self, x: Tensor, residual: Tensor | None = None) -> Tensor:
        self._check_input_dim(x)
        return _apply(x, self, self.act, residual, None, super().forward)


def norm_act(
    x: Tensor, norm: nn.Module, act: nn.Module, residual: Tensor | None = None, residual_norm: nn.Module | None = None
) -> Tensor:
    """``act(norm(x) + residual_norm(residual))`` for any modules, by the fused kernels where they compute it.

    They do for a BatchNorm and a LayerAct of this package whose scale has a name, for inputs that
    `kernels.backend_for` gives to one of them, unless a hook waits for what passes between the modules.

    Args:
        x: ``(N, C, *)``.
        norm: Module that takes x.
        act: Module that takes the sum.
        residual: Of the shape of x; None for none.
        residual_norm: Module that the residual goes through; None for none.
    """
    return _apply(x, norm, act, residual, residual_norm, norm)


def _apply(
    x: Tensor,
    norm: nn.Module,
    act: nn.Module,
    residual: Tensor | None,
    residual_norm: nn.Module | None,
    plain_norm: Any,
) -> Tensor:
    kernels = kernels_for(x) if _is_fusible_act(act) else None
    if isinstance(residual_norm, nn.Identity):
        residual_norm = None
    if kernels is not None and isinstance(norm, nn.Identity) and residual_norm is None:
        # The BatchNorm is folded into the convolution, whose output nobody else reads.
        if residual is not None:
            x = x + residual if torch.is_grad_enabled() else x.add_(residual)
        return fused_layer_act(kernels, x, act.scale, act.alpha, act.weight, act.bias, inplace=True)  # type: ignore[arg-type]
    if kernels is not None and hasattr(kernels, "norm_act_stats") and _is_fusible(x, norm, residual, residual_norm):
        return fused.fused_batch_norm_layer_act(
            kernels,
            x,
            _batch_norm(norm),  # type: ignore[arg-type]
            act.scale,  # type: ignore[arg-type]
            act.alpha,  # type: ignore[arg-type]
            act.weight,  # type: ignore[arg-type]
            act.bias,  # type: ignore[arg-type]
            residual,
            None if residual_norm is None else _batch_norm(residual_norm),  # type: ignore[arg-type]
        )
    z = plain_norm(x)
    if residual is not None:
        z = z + (residual if residual_norm is None else residual_norm(residual))
    return act(z)


def _is_fusible_act(act: nn.Module) -> bool:
    return type(act) in (LayerAct, LASiLU, LAHardSiLU) and isinstance(act.scale, str) and not _has_hooks(act)


def _is_fusible(x: Tensor, norm: nn.Module, residual: Tensor | None, residual_norm: nn.Module | None) -> bool:
    """Whether BatchNorms of known kind meet tensors that lie alike, with nothing watching between."""
    norms = [norm] if residual_norm is None else [norm, residual_norm]
    if any(type(n) not in (nn.BatchNorm2d, nn.SyncBatchNorm, BatchNormLayerAct2d) or _has_hooks(n) for n in norms):
        return False
    if residual is not None and (
        residual.shape != x.shape or residual.dtype != x.dtype or memory_format(residual) != memory_format(x)
    ):
        return False
    return x.numel() > x.shape[1]  # the batch of one value a channel is refused by BatchNorm itself


def _has_hooks(module: nn.Module) -> bool:
    # Those of a BatchNormLayerAct2d itself see its input and output, and run.
    if isinstance(module, BatchNormLayerAct2d):
        return False
    return bool(
        module._forward_hooks or module._forward_pre_hooks or module._backward_hooks or module._backward_pre_hooks
    )


def _batch_norm(norm: nn.BatchNorm2d | nn.SyncBatchNorm) -> fused.BatchNorm:
    """What a BatchNorm module does in this call; counts the batch, as its own forward would."""
    momentum = 0.0 if norm.momentum is None else norm.momentum
    if norm.training and norm.track_running_stats and norm.num_batches_tracked is not None:
        norm.num_batches_tracked.add_(1)
        if norm.momentum is None:
            momentum = 1.0 / float(norm.num_batches_tracked)
    tracked = not norm.training or norm.track_running_stats
    group = None
    if isinstance(norm, nn.SyncBatchNorm) and norm.training and torch.distributed.is_initialized():
        group = norm.process_group or torch.distributed.group.WORLD
    return fused.BatchNorm(
        norm.weight,
        norm.bias,
        norm.running_mean if tracked else None,
        norm.running_var if tracked else None,
        norm.training or norm.running_mean is None,
        momentum,
        norm.eps,
        group,
    )
