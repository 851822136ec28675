"""BatchNorm, an optional residual and LayerAct as one step: in one pass where kernels can, else one after the other."""

from types import ModuleType
from typing import Any, TypeGuard

import torch
from torch import Tensor, nn

from ..definition.composite import DEFAULT_ALPHA
from ..definition.scales import Scale
from ..kernels import batch_norm as fused
from ..kernels.dispatch import kernels_for
from ..kernels.layer_act import fused_layer_act
from ..kernels.memory import are_of_channels, is_alike
from .layer_act import LAHardSiLU, LASiLU, LayerAct
from .pristine import is_pristine

__all__ = ["BatchNormLayerAct2d", "norm_act"]

_ACTIVATIONS = frozenset((LayerAct, LASiLU, LAHardSiLU))


class BatchNormLayerAct2d(nn.Module):
    """``LayerAct(BatchNorm2d(x) + residual)``, in one reading and one writing pass over memory each way.

    Two modules side by side, not a BatchNorm with something behind: what converts, freezes or synchronises BatchNorms
    finds one in `norm`, and leaves the activation where it is.

    Args:
        num_features: Channels.
        scale: As `LayerAct`.
        alpha: As `LayerAct`; added to the variance of the layer, as `eps` is to that of the batch.
        affine_act: Give the LayerAct a gain and a bias a channel (v1, equation 4), as ``act.weight``, ``act.bias``.
        eps: As `torch.nn.BatchNorm2d`, like the rest.

    Shape: x and residual ``(N, C, H, W)``, as is the output.

    Attributes:
        norm: The BatchNorm. A state dict with a plain BatchNorm in this place fits too.
        act: The activation.
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
        super().__init__()
        self.norm = nn.BatchNorm2d(num_features, eps, momentum, affine, track_running_stats, device=device, dtype=dtype)
        channels = num_features if affine_act else None
        self.act = LayerAct(scale, alpha, channels, device=device, dtype=dtype)

    def forward(self, x: Tensor, residual: Tensor | None = None) -> Tensor:
        if torch.jit.is_scripting():
            z = self.norm(x)
            return self.act(z if residual is None else z + residual)
        else:  # TorchScript reads only the first
            return norm_act(x, self.norm, self.act, residual)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        for name in (*self.norm._parameters, *self.norm._buffers):
            if f"{prefix}{name}" in state_dict:
                state_dict[f"{prefix}norm.{name}"] = state_dict.pop(f"{prefix}{name}")
        super()._load_from_state_dict(state_dict, prefix, *args)


def norm_act(
    x: Tensor,
    norm: nn.Module,
    act: nn.Module,
    residual: Tensor | None = None,
    residual_norm: nn.Module | None = None,
    source: nn.Module | None = None,
) -> Tensor:
    """``act(norm(x) + residual_norm(residual))`` for any modules, by the fused kernels where they compute it.

    They do for a BatchNorm and a LayerAct of this package whose scale has a name, for inputs that
    `kernels.backend_for` gives to one of them, if all modules are pristine (`is_pristine`).

    Args:
        x: ``(N, C, *)``.
        norm: Module that takes x.
        act: Module that takes the sum.
        residual: Of the shape of x; None for none.
        residual_norm: Module that the residual goes through; None for none.
        source: Module that has just made x. Where that is a convolution that nobody watches, and `norm` is folded into
            it, x is overwritten if no gradient is kept.
    """
    kernels = kernels_for(x)
    if kernels is not None and _is_layer_act(act) and (residual is None or is_alike(x, residual)):
        if type(residual_norm) is nn.Identity and is_pristine(residual_norm):
            residual_norm = None
        if type(norm) is nn.Identity:
            if residual_norm is None and is_pristine(norm) and are_of_channels(x, *_affine(act)):
                return _after_nothing(kernels, x, act, residual, source)
        elif _is_batch_norm_of(norm, x) and (residual_norm is None or _is_batch_norm_of(residual_norm, x)):
            done = _fused(kernels, x, norm, act, residual, residual_norm)
            if done is not None:
                return done
    z = norm(x)
    if residual is not None:
        z = z + (residual if residual_norm is None else residual_norm(residual))
    return act(z)


def _is_layer_act(act: nn.Module) -> TypeGuard[LayerAct]:
    """Whether this is an activation that kernels know, with nobody watching it."""
    return type(act) in _ACTIVATIONS and isinstance(act.scale, str) and is_pristine(act)


def _is_batch_norm_of(norm: nn.Module, x: Tensor) -> TypeGuard[nn.BatchNorm2d | nn.SyncBatchNorm]:
    """Whether this is a BatchNorm, with nobody watching it, that takes the dimensions of x."""
    kind = type(norm)
    return ((kind is nn.BatchNorm2d and x.dim() == 4) or kind is nn.SyncBatchNorm) and is_pristine(norm)


def _after_nothing(
    kernels: ModuleType, x: Tensor, act: LayerAct, residual: Tensor | None, source: nn.Module | None
) -> Tensor:
    """``act(x + residual)``, where x, if nobody else has it, may be overwritten."""
    own = source is not None and _is_convolution(source)
    if residual is not None:
        x = x.add_(residual) if own and not torch.is_grad_enabled() else x + residual
        own = True
    return fused_layer_act(kernels, x, act.scale, act.alpha, *_affine(act), inplace=own)  # type: ignore[arg-type]


def _is_convolution(source: nn.Module) -> bool:
    """Whether a call's result comes straight from a convolution, and nothing on the way keeps it."""
    while type(source) is nn.Sequential and len(source) and is_pristine(source):
        source = source[-1]
    return type(source) is nn.Conv2d and is_pristine(source)


def _fused(
    kernels: ModuleType,
    x: Tensor,
    norm: nn.BatchNorm2d | nn.SyncBatchNorm,
    act: LayerAct,
    residual: Tensor | None,
    residual_norm: nn.BatchNorm2d | nn.SyncBatchNorm | None,
) -> Tensor | None:
    """All of it by `kernels`; None where they do not do that, or do not take some parameter as it lies."""
    affine, own = _affine(act), _tensors(norm)
    other = () if residual_norm is None else _tensors(residual_norm)
    # BatchNorm itself refuses a batch of one value a channel.
    if not hasattr(kernels, "norm_act_stats") or x.numel() <= x.shape[1]:
        return None
    if not are_of_channels(x, *affine, *own, *other) or (own[2] is None) != (own[3] is None):
        return None
    return fused.fused_batch_norm_layer_act(
        kernels,
        x,
        _batch_norm(norm, *own),
        act.scale,  # type: ignore[arg-type]
        act.alpha,
        *affine,
        residual,
        None if residual_norm is None else _batch_norm(residual_norm, *other),
    )


def _affine(module: Any) -> tuple[Tensor | None, Tensor | None]:
    """Weight and bias, from where they are kept: as an attribute each takes longer than a check of it."""
    own = module._parameters
    try:
        return own["weight"], own["bias"]
    except KeyError:  # a copy for one of several devices, or a shard: plain attributes stand in their places
        return module.weight, module.bias


def _tensors(norm: nn.BatchNorm2d | nn.SyncBatchNorm) -> tuple[Tensor | None, ...]:
    """Weight, bias, running mean and variance."""
    buffers = norm._buffers
    return *_affine(norm), buffers["running_mean"], buffers["running_var"]


def _batch_norm(
    norm: nn.BatchNorm2d | nn.SyncBatchNorm,
    weight: Tensor | None,
    bias: Tensor | None,
    mean: Tensor | None,
    var: Tensor | None,
) -> fused.BatchNorm:
    """What a BatchNorm module of these tensors does in this call; counts the batch, as its own forward would."""
    training, momentum = norm.training, 0.0 if norm.momentum is None else norm.momentum
    if training and norm.track_running_stats:
        count = norm._buffers["num_batches_tracked"]
        if count is not None:
            count.add_(1)
            if norm.momentum is None:
                momentum = 1.0 / float(count)
    group = None
    if isinstance(norm, nn.SyncBatchNorm) and training and torch.distributed.is_initialized():
        group = norm.process_group or torch.distributed.group.WORLD
    by_batch = training or mean is None
    if training and not norm.track_running_stats:
        mean = var = None
    return fused.BatchNorm(weight, bias, mean, var, by_batch, momentum, norm.eps, group)
