"""BatchNorm, an optional residual, and LayerAct in one pass over memory each way, for autograd.

The kernels make four passes over the tensors (see cpu/passes.h); what lies between them is here and in `reductions`.
With residual r, which may have a BatchNorm of its own:

    z = A (x - M) + R (r - K) + B,   y = z s(t),   t = w n + b,   n = rho (z - mu)

A = gamma / deviation of x's BatchNorm and M its mean, R and K the same of r's (1 and 0 without one), B the sum of the
shifts. Statistics of the layer follow from what BatchNorm sums anyway: with m, q mean and centred sum of squares of x
over the P positions of each (sample, channel), k, q_r those of r, and q_xr the centred products,

    mean of z     = A (m - M) + R (k - K) + B
    squares of z  = A^2 q + 2 A R q_xr + R^2 q_r          (centred on that mean)

and mu, rho by summing over channels. Backward, u = g (s + rho w z s') and h = g z s':

    dz = u - rho mean(w h) - rho n mean(w h n)            (means over the sample)

BatchNorm's backward needs the sums of dz and dz (x - M) over samples and positions. They are linear in sums that one
reading pass takes (h, h (z - mu), u, u (x - M), u (r - K)) and in the numbers above, since the sum of
(z - mu) (x - M) over positions is A q + R q_xr + P (mean of z - mu) (m - M). So only x, r and those few numbers are
kept, and neither BatchNorm's output nor the activation's input ever is.
"""

from dataclasses import dataclass
from types import ModuleType
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor

from ..definition import composite
from .dispatch import is_plain
from .layer_act import anew, differentiable_gradients
from .memory import lie_alike
from .reductions import norm_act_batch, norm_act_layer, norm_act_totals

__all__ = ["BatchNorm", "fused_batch_norm_layer_act"]


@dataclass
class BatchNorm:
    """One BatchNorm's part in a call.

    Attributes:
        weight: gamma ``(C,)``, None for 1.
        bias: beta ``(C,)``, None for 0.
        mean: Running mean ``(C,)``: used where `training` is off, updated where it is on; None for neither.
        var: Running variance, likewise.
        training: Normalise by the batch.
        momentum: Share of the batch in the running statistics.
        eps: Added to the variance.
        group: Processes whose batches are one, as in SyncBatchNorm; None for this one alone.
    """

    weight: Tensor | None
    bias: Tensor | None
    mean: Tensor | None
    var: Tensor | None
    training: bool
    momentum: float
    eps: float
    group: Any = None


@dataclass
class _Normalization:
    """A BatchNorm's coefficients ``(C,)`` in float64: ``gain (x - centre - remainder)`` is its output without beta."""

    centre: Tensor  # a float32 number, which the kernels subtract exactly
    remainder: Tensor  # the mean less `centre`
    gain: Tensor
    inverse: Tensor  # 1 / deviation
    count: float  # positions in the batch, in all processes


def fused_batch_norm_layer_act(
    kernels: ModuleType,
    x: Tensor,
    norm: BatchNorm,
    scale: str,
    alpha: float,
    act_weight: Tensor | None = None,
    act_bias: Tensor | None = None,
    residual: Tensor | None = None,
    residual_norm: BatchNorm | None = None,
) -> Tensor:
    """``layer_act(batch_norm(x) + batch_norm(residual))`` by the kernels that `dispatch.kernels_for` found.

    Args:
        kernels: Module of kernels that takes `x`; `residual` has its shape, dtype and memory format.
        x: ``(N, C, *)``.
        norm: Its BatchNorm.
        scale: ``"sigmoid"`` or ``"hardsigmoid"``.
        alpha: As in `composite.layer_act`.
        act_weight: Of the affine LayerAct, ``(C,)``.
        act_bias: Likewise.
        residual: Added before the activation; None for none.
        residual_norm: BatchNorm of the residual; None adds it as it is.
    """
    parameters = [norm.weight, norm.bias, act_weight, act_bias]
    parameters += [residual_norm.weight, residual_norm.bias] if residual_norm else [None, None]
    return _FusedBatchNormLayerAct.apply(
        kernels, norm, residual_norm, scale == "hardsigmoid", alpha, x, residual, *parameters
    )


def _normalization(norm: BatchNorm, mean: Tensor, squares: Tensor, count: float) -> _Normalization:
    """Coefficients from mean and centred squares of the batch, for each channel; updates the running statistics."""
    if norm.training:
        if norm.group is not None:
            count, mean, squares = _gather(norm.group, count, mean, squares)
        variance = squares / count
        if norm.mean is not None and norm.var is not None:
            norm.mean.lerp_(mean.to(norm.mean.dtype), norm.momentum)
            norm.var.lerp_((squares / (count - 1)).to(norm.var.dtype), norm.momentum)
    else:
        assert norm.mean is not None, "running statistics are used, so there are some"
        assert norm.var is not None
        mean, variance = norm.mean.double(), norm.var.double()
    inverse = (variance + norm.eps).rsqrt_()
    centre = mean.float().double()
    gain = inverse if norm.weight is None else inverse * norm.weight.detach()
    return _Normalization(centre, mean - centre, gain, inverse, count)


def _gather(group: Any, count: float, mean: Tensor, squares: Tensor) -> tuple[float, Tensor, Tensor]:
    """Count, mean and centred squares of the batches of all processes."""
    own = torch.cat([mean.new_tensor([count]), mean, squares])
    each = [torch.empty_like(own) for _ in range(dist.get_world_size(group))]
    dist.all_gather(each, own, group=group)
    counts, means, parts = torch.stack(each).split([1, len(mean), len(mean)], dim=1)
    total = counts.sum()
    mean = (counts * means).sum(0) / total
    return float(total), mean, (parts + counts * (means - mean).square()).sum(0)


def _is_plain(norm: BatchNorm, residual_norm: BatchNorm | None, parameters: tuple[Tensor | None, ...]) -> bool:
    """Whether one process does it all, and in float32 where it remembers."""
    tensors, group = (*parameters, norm.mean, norm.var), norm.group
    if residual_norm is not None:
        tensors += residual_norm.mean, residual_norm.var
        group = group or residual_norm.group
    return group is None and all(t is None or t.dtype is torch.float32 for t in tensors)


class _FusedBatchNormLayerAct(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, kernels: ModuleType, norm: BatchNorm, residual_norm: BatchNorm | None, hard: bool, alpha: float,
        x: Tensor, r: Tensor | None, *parameters: Tensor | None,
    ) -> Tensor:  # fmt: skip
        _, bias, act_weight, act_bias, _, r_bias = parameters
        ctx.kernels, ctx.norms, ctx.hard, ctx.alpha = kernels, (norm, residual_norm), hard, alpha
        ctx.whole = hasattr(kernels, "norm_act_forward") and _is_plain(norm, residual_norm, parameters)
        if ctx.whole:
            y, saved = kernels.norm_act_forward(x, r, norm, residual_norm, hard, alpha, act_weight, act_bias)
            ctx.save_for_backward(x, r, *parameters, *saved)
            return y
        positions = x[0, 0].numel()
        count = float(len(x) * positions)
        stats = kernels.norm_act_stats(x, r)
        mean, squares, r_mean, r_squares = norm_act_batch(stats, positions)
        own, other = _normalization(norm, mean, squares, count), None
        shift = -own.gain * own.remainder
        zero, one = torch.zeros_like(shift), torch.ones_like(shift)
        r_centre, r_gain = zero, one
        if residual_norm is not None:
            other = _normalization(residual_norm, r_mean, r_squares, count)
            r_centre, r_gain = other.centre, other.gain
            shift -= other.gain * other.remainder
        for beta in (bias, r_bias):
            if beta is not None:
                shift += beta
        # As the kernels take them; the last four are backward's.
        rows = [own.centre, own.gain, shift, r_centre, r_gain]
        rows += [one if act_weight is None else act_weight.double(), zero if act_bias is None else act_bias.double()]
        channels = torch.stack([*rows, zero, zero, zero, zero]).float()
        samples, kept = norm_act_layer(stats, channels, r is not None, positions, alpha)
        ctx.save_for_backward(x, r, *parameters, channels, samples, kept)
        ctx.normalizations = own, other
        return kernels.norm_act_value(x, r, hard, channels, samples)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        x, r, *others = ctx.saved_tensors
        parameters, saved = others[:6], others[6:]
        if torch.is_grad_enabled() or not is_plain(g):  # the gradient is to be differentiated again, or batched
            return None, None, None, None, None, *_composite_gradient(ctx, x, r, parameters, g)
        x, r, g = lie_alike(x, r, g)
        if ctx.whole:
            found = ctx.kernels.norm_act_backward(x, r, g, *ctx.norms, ctx.hard, saved, parameters)
            return None, None, None, None, None, *found
        channels, samples, kept = saved
        sums, g = ctx.kernels.norm_act_sums(x, r, g, ctx.hard, channels, samples)
        samples, totals = norm_act_totals(sums, kept, channels, samples, x[0, 0].numel())
        dz, dz_x, dz_r, dact_weight, dact_bias = totals
        dr_weight = None
        (norm, residual_norm), (own, other) = ctx.norms, ctx.normalizations
        through, of_residual = _through_batch(norm, own, dz, dz_x), None
        dweight = own.inverse * (dz_x - own.remainder * dz)
        if other is not None:
            of_residual = _through_batch(residual_norm, other, dz, dz_r)
            dr_weight = other.inverse * (dz_r - other.remainder * dz)
        if through or of_residual:
            zero = torch.zeros_like(dz)
            rows = [*(through or (zero, zero)), *(of_residual or (zero, zero))]
            channels = torch.cat([channels[:7], torch.stack(rows).float()])
        dx, dr = ctx.kernels.norm_act_gradient(x, r, g, ctx.hard, channels, samples)
        gradients = [dweight, dz, dact_weight, dact_bias, dr_weight, dz]
        of_parameters = (
            gradient.to(parameter.dtype) if parameter is not None and gradient is not None else None
            for parameter, gradient in zip(parameters, gradients, strict=True)
        )
        return None, None, None, None, None, dx, dr, *of_parameters


def _through_batch(norm: BatchNorm, own: _Normalization, dz: Tensor, dz_x: Tensor) -> tuple[Tensor, Tensor] | None:
    """The batch statistics' share in the gradient of x, as ``shift + slope (x - centre)``; None without one.

    `dz` is the sum of dz for each channel, `dz_x` that of dz times ``x - centre``.
    """
    if not norm.training:
        return None
    if norm.group is not None:
        # a process's sum is around the same centre as any other's
        both = torch.stack([dz, dz_x])
        dist.all_reduce(both, group=norm.group)
        dz, dz_x = both
    slope = own.inverse.square() * (dz_x - own.remainder * dz) / own.count
    return dz / own.count - slope * own.remainder, slope


def _composite_gradient(
    ctx: Any, x: Tensor, r: Tensor | None, parameters: list[Tensor | None], g: Tensor
) -> list[Tensor | None]:
    """Gradients of x, the residual and the parameters by torch operations."""
    again = torch.is_grad_enabled()

    def normalize(x: Tensor, norm: BatchNorm, weight: Tensor | None, bias: Tensor | None) -> Tensor:
        mean, var = (None, None) if norm.training else (norm.mean, norm.var)
        return F.batch_norm(x, mean, var, weight, bias, norm.training, 0.0, norm.eps)

    norm, residual_norm = ctx.norms
    if norm.group is not None or (residual_norm is not None and residual_norm.group is not None):
        raise NotImplementedError(
            "A BatchNorm over several processes has first derivatives only: differentiate again in one process, or "
            "through model.eval()."
        )
    with torch.enable_grad():
        every = anew([x, r, *parameters])
        x, r, weight, bias, act_weight, act_bias, r_weight, r_bias = every  # type: ignore[assignment]
        z = normalize(x, norm, weight, bias)
        if r is not None:
            z = z + (r if residual_norm is None else normalize(r, residual_norm, r_weight, r_bias))
        y = composite.layer_act(z, "hardsigmoid" if ctx.hard else "sigmoid", ctx.alpha, act_weight, act_bias)
        return differentiable_gradients(y, every, g, again)
