"""The maths of layer-level activation, in plain differentiable torch: the definition that all else is checked against.

Imports nothing but torch. A LayerAct function multiplies its input by a scale of the *layer-normalised* input
(Yoon & Lim, "LayerAct: Advanced Activation Mechanism for Robust Inference of CNNs", equation 6)::

    a = y * s(n),    n = (y - mean) / sqrt(var + alpha)

with mean and population variance of a sample taken over all of its dimensions, so that the *criterion* of activation
adapts to the sample while its statistics survive (unlike LayerNorm followed by an activation).
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["DEFAULT_ALPHA", "check_scale", "la_hardsilu", "la_silu", "layer_act", "layer_normalize"]

# The paper's value for CIFAR-size models (v3, appendix H); its ImageNet-size models take 0.1.
DEFAULT_ALPHA = 1e-5


def hardsigmoid(n: Tensor) -> Tensor:
    """``clip(n / 6 + 1/2, 0, 1)``, differentiable twice and exactly.

    F.hardsigmoid has no second derivative, and a first one of float32 precision in float64. LA-HardSiLU takes 1.15
    times as long, forward and backward, with this one.
    """
    return F.hardtanh(n, -3.0, 3.0).add_(3.0).div_(6.0)


Scale = str | Callable[[Tensor], Tensor]
_SCALES: dict[str, Callable[[Tensor], Tensor]] = {"sigmoid": torch.sigmoid, "hardsigmoid": hardsigmoid}


def check_input(x: Tensor) -> None:
    """Refuse a tensor whose samples have no layer statistics.

    Raises:
        ValueError: `x` has no dimension but the batch.
        TypeError: `x` is not real floating point.
    """
    if x.dim() < 2:
        raise ValueError(
            f"LayerAct normalises each sample over all of its dimensions, so the input needs shape (N, ...), "
            f"got {list(x.shape)}; add a batch dimension with x[None]."
        )
    if not x.is_floating_point():
        raise TypeError(f"LayerAct needs a floating-point input, got {x.dtype}; convert it with x.float().")


def layer_normalize(x: Tensor, alpha: float = DEFAULT_ALPHA) -> Tensor:
    """Normalise every sample over all of its dimensions (paper v3, equation 6): ``(x - mean) / sqrt(var + alpha)``.

    Statistics are the population's, accumulated in float32 or wider. The order of a sample's elements does not
    matter to them, so a channels_last tensor is read in the order in which it lies in memory, without a copy.

    Args:
        x: Shape ``(N, *)`` with at least one dimension after the batch; any floating dtype.
        alpha: Added to the variance; a constant sample normalises to zeros (in float16 and bfloat16 to within
            ``1e-7 * |x| / sqrt(alpha)``, since the sample is not shifted there).

    Returns:
        Tensor of the shape, dtype and memory format of `x` (float32 where autocast widens ``layer_norm``).

    Raises:
        ValueError: `x` has no dimension but the batch.
        TypeError: `x` is not real floating point.
    """
    check_input(x)
    channels_last = x.dim() > 2 and x.stride(1) == 1
    samples = x.movedim(1, -1) if channels_last else x
    if x.dtype == torch.float32 or x.dtype == torch.float64:
        # n does not depend on a shift of the sample, and taking one of its own elements away is nearly exact: it
        # keeps the digits that a large mean would cost (mean 1e4, std 1: error in n 1e-3 without, 1e-6 with).
        # Detached, because the derivative along a shift is zero.
        first = samples.detach()
        for _ in range(1, x.dim()):  # cuts each dimension to its first element, and comes round to their order
            first = first[:, :1].movedim(1, -1)
        samples = samples - first
    # Over the sample's own shape: flattening it first would tie an exported graph to sizes that divide evenly.
    n = F.layer_norm(samples, samples.shape[1:], eps=alpha)
    return n.movedim(-1, 1) if channels_last else n


def la_silu(x: Tensor, alpha: float = DEFAULT_ALPHA) -> Tensor:
    """LA-SiLU, ``x * sigmoid(layer_normalize(x))`` (paper v3, section 3.1). Shapes and errors as `layer_normalize`."""
    return (x * torch.sigmoid(layer_normalize(x, alpha))).to(x.dtype)


def la_hardsilu(x: Tensor, alpha: float = DEFAULT_ALPHA) -> Tensor:
    """LA-HardSiLU, ``x * clip(n / 6 + 1/2, 0, 1)`` (paper v3, section 3.1). Shapes and errors as `layer_normalize`."""
    return (x * hardsigmoid(layer_normalize(x, alpha))).to(x.dtype)


def layer_act(
    x: Tensor,
    scale: Scale = "sigmoid",
    alpha: float = DEFAULT_ALPHA,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
) -> Tensor:
    """Layer-level activation ``x * scale(n)`` with any scale function (paper v3, equation 6 and Definition 3.1).

    Args:
        x: Shape ``(N, C, *)`` or ``(N, C)``, any floating dtype and memory format.
        scale: ``"sigmoid"`` (LA-SiLU), ``"hardsigmoid"`` (LA-HardSiLU) or an elementwise callable that satisfies
            Definition 3.1; `check_scale` tests one.
        alpha: Added to the variance.
        weight: Gain of the affine variant (v1, equation 4): ``n * weight + bias``, one value a channel, shape ``(C,)``.
        bias: Its bias, shape ``(C,)``.

    Returns:
        Tensor of the shape, dtype and memory format of `x`.

    Raises:
        ValueError: `x` has no dimension but the batch, `scale` is an unknown name, or `weight` or `bias` does not
            hold one value a channel.
        TypeError: `x` is not real floating point.
    """
    scale_fn = resolve_scale(scale)
    n = layer_normalize(x, alpha)
    for name, parameter in (("weight", weight), ("bias", bias)):
        if parameter is not None and parameter.shape != x.shape[1:2]:
            raise ValueError(
                f"{name} must hold one value for each of the {x.shape[1]} channels of the input {list(x.shape)}, "
                f"got shape {list(parameter.shape)}."
            )
    per_channel = (-1,) + (1,) * (x.dim() - 2)
    if weight is not None:
        n = n * weight.view(per_channel)
    if bias is not None:
        n = n + bias.view(per_channel)
    return (x * scale_fn(n)).to(x.dtype)


def resolve_scale(scale: Scale) -> Callable[[Tensor], Tensor]:
    """Return the scale function of that name, or `scale` itself where it is callable; ValueError for another name."""
    if callable(scale):
        return scale
    if scale not in _SCALES:
        raise ValueError(f"Unknown scale {scale!r}; known are {', '.join(_SCALES)}, or pass a callable.")
    return _SCALES[scale]


def check_scale(scale: Scale, max_slope: float = 100.0) -> None:
    """Test a scale function against Definition 3.1 of the paper (v3) on a float64 grid; return where it holds.

    The conditions: ``s(0) = 1/2``; bounded by 0 and 1; increasing (never falling, and higher at the right end than
    at the left); Lipschitz continuous. A grid sees a jump as a slope that grows as the grid is refined, so
    "Lipschitz" here means: no slope above `max_slope` after refining the grid where it is steepest.

    Args:
        scale: Name or elementwise callable on a 1-D float64 tensor.
        max_slope: Largest Lipschitz constant K accepted.

    Raises:
        ValueError: Names the first condition that fails and where.
    """
    scale_fn = resolve_scale(scale)
    grid = _scale_grid()
    with torch.no_grad():
        values = scale_fn(grid)
        if values.shape != grid.shape:
            raise ValueError(f"scale is not elementwise: {list(grid.shape)} values in, {list(values.shape)} out.")
        part = (grid > 0) & (grid < 1)
        if not torch.allclose(scale_fn(grid[part]), values[part], equal_nan=True):
            raise ValueError("scale is not elementwise: its value at n changes with the other elements of the tensor.")
        if not bool(torch.isfinite(values).all()):
            raise ValueError(f"scale is not finite at n = {grid[~torch.isfinite(values)][0]:g}.")
        at_zero = float(scale_fn(torch.zeros(1, dtype=torch.float64)))
        if abs(at_zero - 0.5) > 1e-6:
            raise ValueError(f"scale(0) must be 1/2, got {at_zero:g}.")
        outside = (values - 0.5).abs().argmax()
        if abs(float(values[outside]) - 0.5) > 0.5:
            raise ValueError(f"scale is not bounded by 0 and 1: s({grid[outside]:g}) = {values[outside]:g}.")
        _check_slopes(scale_fn, grid, values, max_slope)


def _check_slopes(scale_fn: Callable[[Tensor], Tensor], grid: Tensor, values: Tensor, max_slope: float) -> None:
    """The two conditions of Definition 3.1 on the slope, for `check_scale`: increasing and Lipschitz."""
    rise = values.diff()
    slope = rise / grid.diff()
    if bool((rise < -1e-12).any()):  # a saturated scale may lose a last digit
        at = slope.argmin()
        raise ValueError(f"scale is not increasing: it falls fastest near n = {grid[at]:g}, slope {slope[at]:.3g}.")
    if not bool(values[-1] > values[0]):
        raise ValueError(f"scale is not increasing: it is constant, s = {values[0]:g}.")
    refined = torch.cat([torch.linspace(grid[i], grid[i + 1], 1001, dtype=torch.float64) for i in slope.topk(8)[1]])
    slope = (scale_fn(refined).diff() / refined.diff()).nan_to_num(0.0)  # 0 / 0 where two intervals meet
    if float(slope.max()) > max_slope:
        at = slope.argmax()
        raise ValueError(f"scale is not Lipschitz continuous: slope {slope[at]:.3g} near n = {refined[at]:g}.")


def _scale_grid() -> Tensor:
    """Where `check_scale` looks: densely around 0, then out to 1e4; |n| is below sqrt(d) for a sample of d elements."""
    fine = torch.linspace(-1.0, 1.0, 20_001, dtype=torch.float64)  # spacing 1e-4
    coarse = torch.linspace(-60.0, 60.0, 24_001, dtype=torch.float64)
    tail = torch.logspace(1.8, 4.0, 200, dtype=torch.float64)
    # Rounded, so that points of two ranges that mean the same number coincide: no slopes over rounding errors.
    return torch.cat([fine, coarse, tail, -tail]).round(decimals=9).unique()
