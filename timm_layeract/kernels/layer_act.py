"""LayerAct through a fused kernel, for autograd.

Forward keeps the input and two numbers a sample; backward recomputes the rest (paper v3, section 3.1): with the scale
s, its slope s' and h = g y s'(t) w, where t = w n + b, the gradient of the input is

    g s + (h - mean(h) - n mean(h n)) / sqrt(var + alpha)
"""

from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from ..definition import composite
from .dispatch import is_plain
from .memory import lie_alike

__all__ = ["anew", "differentiable_gradients", "fused_layer_act", "recomputed_layer_act"]


def fused_layer_act(
    kernels: ModuleType,
    x: Tensor,
    scale: str,
    alpha: float,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    inplace: bool = False,
) -> Tensor:
    """`composite.layer_act` by the kernels that `dispatch.kernels_for` found; in place where no gradient is kept."""
    needs_grad = torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in (x, weight, bias))
    if needs_grad:
        return _FusedLayerAct.apply(kernels, x, scale, alpha, weight, bias)
    y, _ = kernels.layer_act_forward(
        x, scale == "hardsigmoid", alpha, _float(weight), _float(bias), x if inplace else None
    )
    return y


def _float(parameter: Tensor | None) -> Tensor | None:
    return None if parameter is None else parameter.detach().float().contiguous()


class _FusedLayerAct(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, kernels: ModuleType, x: Tensor, scale: str, alpha: float, weight: Tensor | None, bias: Tensor | None
    ) -> Tensor:
        y, stats = kernels.layer_act_forward(x, scale == "hardsigmoid", alpha, _float(weight), _float(bias))
        ctx.save_for_backward(x, weight, bias, stats)
        ctx.kernels, ctx.scale, ctx.alpha = kernels, scale, alpha
        return y

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, bias, stats = ctx.saved_tensors
        hard = ctx.scale == "hardsigmoid"
        if torch.is_grad_enabled() or not is_plain(g):  # the gradient is to be differentiated again, or batched
            return None, *_composite_gradient(x, weight, bias, g, ctx.scale, ctx.alpha)
        x, g = lie_alike(x, g)
        dx, dw, db = ctx.kernels.layer_act_backward(x, g, stats, hard, _float(weight), _float(bias))
        dweight = None if weight is None else dw.sum(0).to(weight.dtype)
        dbias = None if bias is None else db.sum(0).to(bias.dtype)
        return None, dx, None, None, dweight, dbias


def recomputed_layer_act(
    x: Tensor, scale: str, alpha: float, weight: Tensor | None = None, bias: Tensor | None = None
) -> Tensor:
    """`composite.layer_act`, whose intermediate results backward computes again, so that the input alone is kept.

    On devices that do not know autocast (meta), where nothing is kept anyway, the composite itself.
    """
    if not torch.amp.is_autocast_available(x.device.type):
        return composite.layer_act(x, scale, alpha, weight, bias)
    return _RecomputedLayerAct.apply(x, scale, alpha, weight, bias)


class _RecomputedLayerAct(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: str, alpha: float, weight: Tensor | None, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight, bias)
        device = x.device.type
        ctx.scale, ctx.alpha = scale, alpha
        ctx.autocast = device, torch.get_autocast_dtype(device), torch.is_autocast_enabled(device)
        return composite.layer_act(x, scale, alpha, weight, bias)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        device, dtype, enabled = ctx.autocast
        with torch.autocast(device, dtype, enabled):
            x, weight, bias = ctx.saved_tensors
            return _composite_gradient(x, weight, bias, g, ctx.scale, ctx.alpha)


def _composite_gradient(
    x: Tensor, weight: Tensor | None, bias: Tensor | None, g: Tensor, scale: str, alpha: float
) -> tuple[Tensor | None, ...]:
    """The same gradient by torch operations, to be differentiated again if it is: of x, scale, alpha, weight, bias."""
    again = torch.is_grad_enabled()
    with torch.enable_grad():
        inputs = anew([x, weight, bias])
        y = composite.layer_act(inputs[0], scale, alpha, *inputs[1:])  # type: ignore[arg-type]
        dx, dweight, dbias = differentiable_gradients(y, inputs, g, again)
    return dx, None, None, dweight, dbias


def anew(tensors: list[Tensor | None]) -> list[Tensor | None]:
    """Tensors to compute with a second time: views, so that one in two places has a gradient for each."""
    return [None if t is None else t.view_as(t) for t in tensors]


def differentiable_gradients(
    y: Tensor, tensors: list[Tensor | None], g: Tensor, again: bool = True
) -> list[Tensor | None]:
    """Gradients of those of `tensors` that need one, to be differentiated if `again`; None for the others."""
    inputs = [t for t in tensors if t is not None and t.requires_grad]
    found = iter(torch.autograd.grad(y, inputs, g, create_graph=again))
    return [next(found) if t is not None and t.requires_grad else None for t in tensors]
