"""BatchNorm, an optional residual, and LayerAct in one pass over memory each way, for autograd.

Imports torch and `dispatch`. The kernels make four passes over the tensors (see cpu/layeract.c); what lies between them
is here, on one number a (sample, channel). With residual r, which may have a BatchNorm of its own:

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

from .. import composite
from .dispatch import lie_as

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
    """A BatchNorm's coefficients in float64: ``gain (x - centre)`` is its output without beta."""

    centre: Tensor  # (C,), a float32 number: the kernels subtract it
    remainder: Tensor  # the mean less `centre`
    gain: Tensor
    inverse: Tensor  # 1 / deviation
    count: Tensor | int  # positions of the batch, in all processes; 0 where running statistics are used


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


def _normalization(norm: BatchNorm, mean: Tensor, squares: Tensor, positions: int) -> _Normalization:
    """Coefficients from the statistics of each (sample, channel); updates the running ones."""
    count: Tensor | int = 0
    if norm.training:
        count = len(mean) * positions
        centre = mean.mean(0)
        spread = squares.sum(0) + positions * (mean - centre).square().sum(0)
        if norm.group is not None:
            count, centre, spread = _gather(norm.group, count, centre, spread)
        variance = spread / count
        if norm.mean is not None and norm.var is not None:
            norm.mean.lerp_(centre.to(norm.mean.dtype), norm.momentum)
            norm.var.lerp_((spread / (count - 1)).to(norm.var.dtype), norm.momentum)
    else:
        assert norm.mean is not None, "running statistics are used, so there are some"
        assert norm.var is not None
        centre, variance = norm.mean.double(), norm.var.double()
    inverse = (variance + norm.eps).rsqrt()
    rounded = centre.float().double()
    gain = inverse if norm.weight is None else inverse * norm.weight.detach()
    return _Normalization(rounded, centre - rounded, gain, inverse, count)


def _gather(group: Any, count: int, centre: Tensor, spread: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Count, mean and centred squares of the batches of all processes."""
    own = torch.cat([centre.new_tensor([count]), centre, spread])
    each = [torch.empty_like(own) for _ in range(dist.get_world_size(group))]
    dist.all_gather(each, own, group=group)
    counts, centres, spreads = torch.stack(each).split([1, len(centre), len(centre)], dim=1)
    total = counts.sum()
    mean = (counts * centres).sum(0) / total
    return total, mean, (spreads + counts * (centres - mean).square()).sum(0)


class _FusedBatchNormLayerAct(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, kernels: ModuleType, norm: BatchNorm, residual_norm: BatchNorm | None, hard: bool, alpha: float,
        x: Tensor, r: Tensor | None, *parameters: Tensor | None,
    ) -> Tensor:  # fmt: skip
        _, bias, act_weight, act_bias, _, r_bias = parameters
        positions = x[0, 0].numel()
        m, q, k, q_r, q_xr = kernels.norm_act_stats(x, r)
        own = _normalization(norm, m, q, positions)
        offset, shift = m - own.centre, -own.gain * own.remainder
        z_mean, z_squares = own.gain * offset, own.gain.square() * q
        # The coefficients that the kernels take for each channel; the last four are backward's.
        channels = torch.zeros(11, x.shape[1], dtype=torch.float64, device=x.device)
        channels[0], channels[1], channels[4], channels[5] = own.centre, own.gain, 1.0, 1.0
        kept = [offset, q]
        other = None
        if r is not None:
            if residual_norm is not None:
                other = _normalization(residual_norm, k, q_r, positions)
                channels[3], channels[4] = other.centre, other.gain
                shift = shift - other.gain * other.remainder
            r_offset, r_gain = k - channels[3], channels[4]
            z_mean = z_mean + r_gain * r_offset
            z_squares = z_squares + 2 * own.gain * r_gain * q_xr + r_gain.square() * q_r
            kept += [r_offset, q_r, q_xr]
        for beta in (bias, r_bias):
            shift = shift if beta is None else shift + beta
        channels[2] = shift
        for row, parameter in ((5, act_weight), (6, act_bias)):
            if parameter is not None:
                channels[row] = parameter
        z_mean = z_mean + shift
        mu = z_mean.mean(1)
        spread = z_squares.sum(1) + positions * (z_mean - mu[:, None]).square().sum(1)
        samples = torch.zeros(4, len(x), dtype=torch.float64, device=x.device)
        samples[0], samples[1] = mu, (spread / (x.shape[1] * positions) + alpha).rsqrt()
        channels, samples = channels.float(), samples.float()
        # float32 suffices for what is kept, as it is centred.
        ctx.save_for_backward(x, r, channels, samples, torch.stack(kept).float(), *parameters)
        ctx.kernels, ctx.norms, ctx.normalizations = kernels, (norm, residual_norm), (own, other)
        ctx.hard, ctx.alpha = hard, alpha
        return kernels.norm_act_value(x, r, hard, channels, samples)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        x, r, channels, samples, kept, *parameters = ctx.saved_tensors
        if torch.is_grad_enabled():  # the gradient is to be differentiated again
            return None, None, None, None, None, *_composite_gradient(ctx, x, r, parameters, g)
        g = lie_as(x, g)
        h, hz, u, ux, ur = ctx.kernels.norm_act_sums(x, r, g, ctx.hard, channels, samples)
        positions, size = x[0, 0].numel(), x[0].numel()
        gain, r_gain, w = channels[1], channels[4], channels[5]
        mu, rho = samples[0, :, None].double(), samples[1, :, None].double()
        offset, q, *of_residual = kept.double()
        z_offset = gain * offset + channels[2] - mu
        if of_residual:
            r_offset, q_r, q_xr = of_residual
            z_offset = z_offset + r_gain * r_offset
        layer_shift = (h @ w.double())[:, None] / size
        layer_slope = rho.square() * (hz @ w.double())[:, None] / size

        def sums_of_dz(sum_u: Tensor, of_factor: Tensor | int, products: Tensor | int) -> Tensor:
            """Sum of dz times a factor, over samples, from that of u, of the factor, and of (z - mu) times it."""
            return (sum_u - rho * (layer_shift * of_factor + layer_slope * products)).sum(0)

        own, other = ctx.normalizations
        norm, residual_norm = ctx.norms
        channels, samples = channels.clone(), samples.clone()
        samples[2], samples[3] = layer_shift[:, 0], layer_slope[:, 0]
        dz = sums_of_dz(u, positions, positions * z_offset)
        products = gain * q + positions * z_offset * offset + (r_gain * q_xr if of_residual else 0)
        dz_x = sums_of_dz(ux, positions * offset, products) - own.remainder * dz
        channels[7], channels[8] = _through_batch(norm, own, dz, dz_x)
        dweight, dr_weight = own.inverse * dz_x, None
        if other is not None:
            products = gain * q_xr + r_gain * q_r + positions * z_offset * r_offset
            dz_r = sums_of_dz(ur, positions * r_offset, products) - other.remainder * dz
            channels[9], channels[10] = _through_batch(residual_norm, other, dz, dz_r)
            dr_weight = other.inverse * dz_r
        dx, dr = ctx.kernels.norm_act_gradient(x, r, g, ctx.hard, channels, samples)
        gradients = [dweight, dz, (rho * hz).sum(0), h.sum(0), dr_weight, dz]
        return (
            None,
            None,
            None,
            None,
            None,
            dx,
            dr,
            *(
                None if parameter is None else gradient.to(parameter.dtype)
                for parameter, gradient in zip(parameters, gradients, strict=True)
            ),
        )


def _through_batch(norm: BatchNorm, own: _Normalization, dz: Tensor, dz_x: Tensor) -> tuple[Tensor, Tensor]:
    """The batch statistics' share in the gradient of x, as ``shift + slope (x - centre)`` for each channel."""
    if not norm.training:
        return torch.zeros_like(dz), torch.zeros_like(dz)
    if norm.group is not None:
        both = torch.stack([dz, dz_x])
        dist.all_reduce(both, group=norm.group)
        dz, dz_x = both
    slope = own.inverse.square() * dz_x / own.count
    return dz / own.count - slope * own.remainder, slope


def _composite_gradient(
    ctx: Any, x: Tensor, r: Tensor | None, parameters: list[Tensor | None], g: Tensor
) -> list[Tensor | None]:
    """Gradients of x, the residual and the parameters by differentiable operations."""

    def normalize(x: Tensor, norm: BatchNorm, weight: Tensor | None, bias: Tensor | None) -> Tensor:
        mean, var = (None, None) if norm.training else (norm.mean, norm.var)
        return F.batch_norm(x, mean, var, weight, bias, norm.training, 0.0, norm.eps)

    norm, residual_norm = ctx.norms
    # Views, so that one tensor in two places has a gradient for each.
    every = [None if t is None else t.view_as(t) for t in (x, r, *parameters)]
    x, r, weight, bias, act_weight, act_bias, r_weight, r_bias = every  # type: ignore[assignment]
    z = normalize(x, norm, weight, bias)
    if r is not None:
        z = z + (r if residual_norm is None else normalize(r, residual_norm, r_weight, r_bias))
    y = composite.layer_act(z, "hardsigmoid" if ctx.hard else "sigmoid", ctx.alpha, act_weight, act_bias)
    inputs = [t for t in every if t is not None and t.requires_grad]
    found = iter(torch.autograd.grad(y, inputs, g, create_graph=True))
    return [next(found) if t is not None and t.requires_grad else None for t in every]
