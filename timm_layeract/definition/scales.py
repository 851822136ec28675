"""Scale functions: those with a name, and the test of Definition 3.1 for any other.

A scale s maps the layer-normalised input n to the factor that LayerAct multiplies its input by.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["Scale", "check_scale", "hardsigmoid", "resolve_scale"]


def hardsigmoid(n: Tensor) -> Tensor:
    """``clip(n / 6 + 1/2, 0, 1)``, differentiable twice and exactly.

    F.hardsigmoid has no second derivative, and a first one of float32 precision in float64. LA-HardSiLU takes 1.15
    times as long, forward and backward, with this one.
    """
    return F.hardtanh(n, -3.0, 3.0).add_(3.0).div_(6.0)


Scale = str | Callable[[Tensor], Tensor]
_SCALES: dict[str, Callable[[Tensor], Tensor]] = {"sigmoid": torch.sigmoid, "hardsigmoid": hardsigmoid}


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
