"""LayerAct through torch.compile: the same functions as `cpu`, in torch operations that become two kernels on a GPU.

Forward and backward are compiled by themselves, for rows of any number and length, so that a network compiles them
once, and what is kept for backward is the input and two numbers a sample. Affine parameters run uncompiled. Where torch
cannot compile (it finds no C compiler, say), that is said once, and the same operations run one after the other.
"""

import importlib.util
import warnings
from collections.abc import Callable
from types import FunctionType
from typing import Any

import torch
from torch import Tensor

__all__ = ["DTYPES", "available", "layer_act_backward", "layer_act_forward"]

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
DEVICES = ("cpu", "cuda", "xpu")  # on the CPU only if forced, as the kernels in C are faster
_triton = importlib.util.find_spec("triton") is not None
_compiled: dict[tuple[Any, ...], Callable[..., Any]] = {}


def available(x: Tensor | None = None) -> bool:
    """Whether there is what torch compiles with for a GPU; with `x`, on its device."""
    return _triton and (x is None or x.device.type in DEVICES)


def _scale(t: Tensor, hard: bool) -> tuple[Tensor, Tensor]:
    """The scale function at t, and its slope there."""
    if hard:
        s = (t.clamp(-3.0, 3.0) + 3.0) / 6.0
        return s, torch.where((t > -3.0) & (t < 3.0), 1.0 / 6.0, s - s)
    s = torch.sigmoid(t)
    return s, s * (1.0 - s)


def _affine(n: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
    if weight is not None:
        n = n * weight
    return n if bias is None else n + bias


def _forward(
    x: Tensor, hard: bool, alpha: float, weight: Tensor | None = None, bias: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """Activation, and each sample's mean and inverse deviation in float64, of x ``(N, *)``."""
    over = list(range(1, x.dim()))
    wide = x.float()
    mean = wide.mean(over, keepdim=True)
    centred = wide - mean
    rest = centred.mean(over, keepdim=True)  # what rounding the mean left
    centred = centred - rest
    rho = (centred.square().mean(over, keepdim=True) + alpha).rsqrt()
    s, _ = _scale(_affine(centred * rho, weight, bias), hard)
    return (wide * s).to(x.dtype), mean.double() + rest.double(), rho.double()


def _backward(
    x: Tensor, g: Tensor, mean: Tensor, rho: Tensor, hard: bool, weight: Tensor | None, bias: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of x, and of each element's argument of the scale: times n, and by itself."""
    over = list(range(1, x.dim()))
    wide, upstream = x.float(), g.float()
    high = mean.float()
    n = ((wide - high) - (mean - high.double()).float()) * rho.float()
    s, slope = _scale(_affine(n, weight, bias), hard)
    of_t = upstream * wide * slope
    h = of_t if weight is None else of_t * weight
    pull, pull_n = h.mean(over, keepdim=True), (h * n).mean(over, keepdim=True)
    return (upstream * s + rho.float() * (h - pull - n * pull_n)).to(x.dtype), of_t * n, of_t


def _backward_of_input(x: Tensor, g: Tensor, mean: Tensor, rho: Tensor, hard: bool) -> Tensor:
    return _backward(x, g, mean, rho, hard, None, None)[0]


def _run(function: Callable[..., Any], hard: bool, x: Tensor, **arguments: Any) -> Any:
    """The compiled function's result, or the function's own where it cannot be compiled."""
    # torch makes a few variants of a function's code, and then runs it uncompiled: what would be a variant each has
    # code of its own here, of which sizes alone vary.
    key = (function, hard, x.dtype, x.device.type, torch.is_inference_mode_enabled())
    if key not in _compiled:
        code = function.__code__.replace(co_name=f"{function.__name__}_{len(_compiled)}")
        _compiled[key] = torch.compile(FunctionType(code, globals(), None, function.__defaults__), dynamic=True)
    try:
        return _compiled[key](x, hard=hard, **arguments)
    except RuntimeError as error:
        from torch._dynamo.exc import TorchDynamoException  # takes a second to import

        if not isinstance(error, TorchDynamoException):
            raise
        reason = str(getattr(error, "inner_exception", error)).strip().split("\n")[0]
        warnings.warn(f"torch.compile fails here ({reason}): LayerAct runs uncompiled, slower.", stacklevel=2)
        _compiled[key] = function
        return function(x, hard=hard, **arguments)


def _rows(x: Tensor) -> Tensor:
    """x as ``(N, values)`` in the order in which it lies in memory, without a copy."""
    return x.as_strided((len(x), x.numel() // len(x)), (x.numel() // len(x), 1))


def layer_act_forward(
    x: Tensor, hard: bool, alpha: float, weight: Tensor | None, bias: Tensor | None, y: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """As `cpu.layer_act_forward`."""
    if weight is None and bias is None:
        rows, mean, rho = _run(_forward, hard, _rows(x), alpha=alpha)
        value = rows.as_strided(x.shape, x.stride())
    else:
        value, mean, rho = _forward(x, hard, alpha, *_per_channel(x, weight, bias))
    stats = torch.cat([mean.view(-1, 1), rho.view(-1, 1)], dim=1)
    return (value, stats) if y is None else (y.copy_(value), stats)


def layer_act_backward(
    x: Tensor, g: Tensor, stats: Tensor, hard: bool, weight: Tensor | None, bias: Tensor | None
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """As `cpu.layer_act_backward`."""
    if weight is None and bias is None:
        rows = _run(_backward_of_input, hard, _rows(x), g=_rows(g), mean=stats[:, :1], rho=stats[:, 1:])
        return rows.as_strided(x.shape, x.stride()), None, None
    view = (-1,) + (1,) * (x.dim() - 1)
    mean, rho = stats[:, 0].view(view), stats[:, 1].view(view)
    dx, of_weight, of_bias = _backward(x, g, mean, rho, hard, *_per_channel(x, weight, bias))
    shape = (len(x), x.shape[1], -1)
    return dx, of_weight.reshape(shape).sum(2), of_bias.reshape(shape).sum(2)


def _per_channel(x: Tensor, *parameters: Tensor | None) -> list[Tensor | None]:
    view = (-1,) + (1,) * (x.dim() - 2)
    return [None if parameter is None else parameter.view(view) for parameter in parameters]
