"""The maths of normalized activations, in plain torch: the one definition.

A normalized activation (Yuan & Zhu, "Normalized activation function: toward better convergence", equations 13, 15-18
and 31-42) scales and shifts an elementwise function f so that the variance of gradients stays the same over layers::

    f^(x) = (lambda + 0.3 tanh(alpha)) (f(x) - mu),    lambda = sqrt((rho + rho') / (2 rho rho'))
    rho = Var[f(x)] / Var[x],    rho' = E[f'(x)^2],    mu = E[f(x)]

rho, rho' and mu are constants to the gradient; alpha is learnt. `layers.NormalizedAct` keeps them from batch to batch.
"""

from collections.abc import Callable
from functools import singledispatch
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from .moments import mean_and_variance

__all__ = [
    "ActStatistics",
    "act_moments",
    "act_statistics",
    "filter_statistics",
    "gain",
    "mean_square_slope",
    "merge_moments",
    "normalization_factor",
    "normalize_output",
    "normalized_act",
    "statistics_of",
]


# Elements that a processor takes the moments of at once: the dozen intermediate tensors then stay in its cache, which
# halves the time that normalized activations add to a training step of ResNet-20.
PIECE = 2**18


class ActStatistics(NamedTuple):
    """What a normalized activation knows of its function on some inputs; tensors without dimensions.

    Attributes:
        rho: Variance of the output over that of the input (equation 31; equation 5 takes E[f^2] instead).
        slope: rho', the mean square of the derivative (equation 6).
        mean: mu, the mean of the output.
    """

    rho: Tensor
    slope: Tensor
    mean: Tensor


@singledispatch
def mean_square_slope(base: Any, x: Tensor, y: Tensor) -> Tensor:
    """E[f'(x)^2] of an elementwise function, by automatic differentiation where no formula is registered.

    Args:
        base: The function f; its type chooses the formula.
        x: Inputs in float32 or wider, without gradient.
        y: ``base(x)``.
    """
    function = base.forward if isinstance(base, nn.Module) else base  # past the hooks that may have called this
    with torch.enable_grad():
        leaf = x.detach().requires_grad_()
        (slope,) = torch.autograd.grad(function(leaf.clone()).sum(), leaf)  # cloned, as it may work in place
    return slope.square().mean()


@mean_square_slope.register
def _(base: nn.ReLU, x: Tensor, y: Tensor) -> Tensor:
    return _positive(x)  # equation 35


@mean_square_slope.register
def _(base: nn.LeakyReLU, x: Tensor, y: Tensor) -> Tensor:
    positive = _positive(x)
    return positive + (1 - positive) * base.negative_slope**2


@mean_square_slope.register
def _(base: nn.SiLU, x: Tensor, y: Tensor) -> Tensor:
    return (y + torch.sigmoid(x) * (1 - y)).square().mean()  # equation 40, without its misprinted factor x


def _positive(x: Tensor) -> Tensor:
    """Share of the positive elements."""
    return (x > 0).count_nonzero().to(x.dtype) / x.numel()


def act_moments(x: Tensor, y: Tensor, base: Callable[[Tensor], Tensor], mask: Tensor | None = None) -> Tensor:
    """Number of elements, E[x], Var[x], E[y], Var[y] and E[f'(x)^2] of one batch, ``(6,)``, in float32 or wider.

    Args:
        x: Inputs of any shape.
        y: ``base(x)``.
        base: Elementwise function.
        mask: Boolean, broadcastable to x; True for the elements that count. None counts all.

    Raises:
        ValueError: The mask does not broadcast to x, or is not boolean.
    """
    with torch.no_grad(), torch.autocast(x.device.type, enabled=False):
        x, y = x.detach(), y.detach()
        if mask is not None:
            counted = _broadcast(mask, x)
            x, y = x[counted], y[counted]
        if x.numel() <= PIECE or x.device.type != "cpu" or torch.compiler.is_compiling():
            return _moments(x, y, base)
        rows = max(1, PIECE // x[0].numel())
        pieces = zip(x.split(rows), y.split(rows), strict=True)
        return merge_moments(torch.stack([_moments(*piece, base) for piece in pieces]))


def _moments(x: Tensor, y: Tensor, base: Callable[[Tensor], Tensor]) -> Tensor:
    wide = torch.promote_types(x.dtype, torch.float32)
    x, y = x.to(wide), y.to(wide)
    if x.numel() == 0:
        return x.new_zeros(6)
    every = list(range(x.dim()))
    slope = mean_square_slope(base, x, y)
    return torch.stack([x.new_tensor(x.numel()), *mean_and_variance(x, every), *mean_and_variance(y, every), slope])


def _broadcast(mask: Tensor, x: Tensor) -> Tensor:
    if mask.dtype != torch.bool:
        raise ValueError(f"mask must be boolean, True for the elements that count, got {mask.dtype}.")
    try:
        return mask.expand_as(x)
    except RuntimeError:
        raise ValueError(
            f"mask {list(mask.shape)} does not broadcast to the input {list(x.shape)}; for padded tokens (N, T) of an "
            f"input (N, T, C) give mask[..., None]."
        ) from None


def merge_moments(parts: Tensor) -> Tensor:
    """The moments of several batches together, ``(6,)``, from theirs, ``(K, 6)``; those of no elements are zeros."""
    count = parts[:, 0]
    share = (count / count.sum().clamp(min=1))[:, None]
    mean = (share * parts[:, 1::2][:, :2]).sum(0)
    variance = (share * (parts[:, 2:5:2] + (parts[:, 1:4:2] - mean).square())).sum(0)
    slope = (share[:, 0] * parts[:, 5]).sum()
    return torch.stack([count.sum(), mean[0], variance[0], mean[1], variance[1], slope])


def statistics_of(moments: Tensor) -> ActStatistics:
    """rho, rho' and mu from the moments of `act_moments`; rho of a constant input is not finite."""
    return ActStatistics(moments[4] / moments[2], moments[5], moments[3])


def act_statistics(x: Tensor, base: Callable[[Tensor], Tensor], mask: Tensor | None = None) -> ActStatistics:
    """rho, rho' and mu of an elementwise function on a batch; arguments and errors as `act_moments`."""
    with torch.no_grad():
        return statistics_of(act_moments(x, base(x), base, mask))


def filter_statistics(
    old: ActStatistics, new: ActStatistics, first: Tensor, momentum: float, lower: float, upper: float
) -> ActStatistics:
    """The running statistics after a batch (equations 16-18).

    Args:
        old: Before the batch.
        new: Of the batch.
        first: Boolean; True where no batch came before: it sets the values.
        momentum: Weight of the batch, m.
        lower: L; a batch whose rho (or rho') is not above ``lower`` times the old one leaves it as it is.
        upper: U; the same for one not below ``upper`` times the old.

    Returns:
        The new values. A value that is no variance ratio (not finite, or zero) is never taken, nor a mean that is not
        finite.
    """

    def ratio(old: Tensor, new: Tensor) -> Tensor:
        inside = (new > lower * old) & (new < upper * old)
        usable = new.isfinite() & (new > 0)
        blended = torch.where(inside, momentum * new + (1 - momentum) * old, old)
        return torch.where(first & usable, new, torch.where(first, old, blended))

    blended = torch.where(first, new.mean, momentum * new.mean + (1 - momentum) * old.mean)
    mean = torch.where(new.mean.isfinite(), blended, old.mean)
    return ActStatistics(ratio(old.rho, new.rho), ratio(old.slope, new.slope), mean)


def normalization_factor(rho: Tensor, slope: Tensor) -> Tensor:
    """lambda, the root of the reciprocal harmonic mean of rho and rho' (equation 13)."""
    return ((rho + slope) / (2 * rho * slope)).sqrt()


def gain(statistics: ActStatistics, alpha: Tensor) -> Tensor:
    """``lambda + 0.3 tanh(alpha)``, the slope that normalization gives the plain activation's output (equation 15)."""
    return normalization_factor(statistics.rho, statistics.slope) + 0.3 * torch.tanh(alpha)


def normalize_output(y: Tensor, statistics: ActStatistics, alpha: Tensor, centered: bool = True) -> Tensor:
    """``(lambda + 0.3 tanh(alpha)) (y - mu)`` of the plain activation's output (equation 15).

    Args:
        y: Any shape and floating dtype, which the result has too.
        statistics: rho, rho' and mu; constants.
        alpha: The learnt scalar, without dimensions.
        centered: Take mu away.
    """
    scale = gain(statistics, alpha)
    return ((y - statistics.mean) * scale if centered else y * scale).to(y.dtype)


def normalized_act(
    x: Tensor,
    base: Callable[[Tensor], Tensor],
    alpha: Tensor | float = 0.0,
    statistics: ActStatistics | None = None,
    mask: Tensor | None = None,
    centered: bool = True,
) -> Tensor:
    """The normalized activation of `base` (equation 15), with the batch's own statistics unless some are given.

    Args:
        x: Any shape, any floating dtype.
        base: Elementwise function of a tensor.
        alpha: The learnt scalar, a number or a tensor without dimensions.
        statistics: rho, rho' and mu, such as those kept from earlier batches; None takes them from `x`.
        mask: As `act_moments`; used where the statistics are taken from `x`.
        centered: Take mu away (the paper's LeNet experiment does not).

    Returns:
        Tensor of the shape and dtype of ``base(x)``.

    Raises:
        ValueError: As `act_moments`.
    """
    y = base(x)
    known = statistics_of(act_moments(x, y, base, mask)) if statistics is None else statistics
    return normalize_output(y, known, torch.as_tensor(alpha, dtype=known.rho.dtype, device=y.device), centered)
