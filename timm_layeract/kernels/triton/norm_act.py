"""BatchNorm + LayerAct by the Triton programs: two launches each way.

`norm_act_forward` and `norm_act_backward` are all of a call. The four others are its passes by themselves, between
which `batch_norm` exchanges statistics with other processes.
"""

from typing import Any

import torch
from torch import Tensor

from .launch import FEW, NORM, NORM_ADD, R_BITS, Has, act_flags, counters, either, launch, stats_pass, sums_pass
from .shapes import tiles_of

__all__ = [
    "norm_act_backward",
    "norm_act_forward",
    "norm_act_gradient",
    "norm_act_stats",
    "norm_act_sums",
    "norm_act_value",
]


def _flags(norm: Any) -> int:
    """What a `batch_norm.BatchNorm` has."""
    if norm is None:
        return 0
    return (
        Has.THERE
        | (Has.TRAINING if norm.training else 0)
        | (0 if norm.weight is None else Has.WEIGHT)
        | (0 if norm.bias is None else Has.BIAS)
        | (0 if norm.mean is None else Has.TRACKED)
    )


def _parameters(norm: Any, none: Tensor) -> list[Tensor]:
    """Weight, bias, running mean and variance of a `batch_norm.BatchNorm`, each `none` where there is none."""
    if norm is None:
        return [none] * 4
    return [either(tensor, none) for tensor in (norm.weight, norm.bias, norm.mean, norm.var)]


def norm_act_forward(
    x: Tensor, r: Tensor | None, own: Any, other: Any, hard: bool, alpha: float, w: Tensor | None, b: Tensor | None
) -> tuple[Tensor, tuple[Tensor | None, ...]]:
    """As `cpu.norm_act_forward`; what it keeps is its own."""
    (n, c), tiles, form = x.shape[:2], tiles_of(x), NORM if r is None else NORM_ADD
    count = counters(x)
    merged = stats_pass(x, r, tiles, count, form)
    y = torch.empty_like(x)
    channels, samples = torch.empty(9, c, device=x.device), torch.empty(2, n, device=x.device)
    kept = torch.empty(2 if r is None else 5, n, c, device=x.device)
    flags = act_flags(w, b) | _flags(own) | (_flags(other) << R_BITS)
    momenta = (0.0, 0.0) if other is None else (other.momentum, other.eps)
    launch(
        "value", x, -(-c // FEW) + n + tiles.programs, 4,
        x, either(r, x), y, merged, channels, samples, kept, count, *_parameters(own, channels),
        *_parameters(other, channels), either(w, channels), either(b, channels), flags, own.momentum, own.eps,
        *momenta, alpha, *tiles.sizes, False, form, hard, *tiles.compiled,
    )  # fmt: skip
    return y, (channels, samples, kept)


def norm_act_backward(
    x: Tensor, r: Tensor | None, g: Tensor, own: Any, other: Any, hard: bool, saved: tuple[Tensor, ...],
    parameters: list[Tensor | None],
) -> list[Tensor | None]:  # fmt: skip
    """As `cpu.norm_act_backward`."""
    channels, samples, kept = saved
    c, tiles, form = x.shape[1], tiles_of(x), NORM if r is None else NORM_ADD
    count = counters(x)
    w, b = either(parameters[2], channels), either(parameters[3], channels)
    flags = act_flags(*parameters[2:4]) | _flags(own) | (_flags(other) << R_BITS)
    sums, pulls = sums_pass(x, r, g, channels, samples, w, b, flags, tiles, count, form, hard)
    dx, dr = torch.empty_like(x), None if r is None else torch.empty_like(r)
    dweight, dbias, dw, db, dr_weight, dr_bias = (None if p is None else torch.empty_like(p) for p in parameters)
    of_dz = dr_bias if dbias is None else dbias  # the sum of dz is the gradient of either shift
    launch(
        "gradient", x, -(-c // FEW) + tiles.programs, 4,
        x, either(r, x), g, dx, either(dr, x), channels, samples, w, b, kept, sums, pulls,
        torch.empty(4, c, device=x.device), count, either(dweight, channels), either(of_dz, channels),
        either(dr_weight, channels), either(dw, channels), either(db, channels), flags, *tiles.sizes,
        False, form, hard, *tiles.compiled,
    )  # fmt: skip
    if dbias is not None and dr_bias is not None:
        dr_bias.copy_(dbias)
    return [dx, dr, dweight, dbias, dw, db, dr_weight, dr_bias]


def norm_act_stats(x: Tensor, r: Tensor | None) -> Tensor:
    """As `cpu.norm_act_stats`."""
    merged = stats_pass(x, r, tiles_of(x), counters(x), NORM if r is None else NORM_ADD).double()
    if r is None:
        zero = torch.zeros_like(merged[0])
        return torch.stack([merged[0] + merged[1], merged[2], zero, zero, zero])
    return torch.stack([merged[0] + merged[1], merged[2], merged[3] + merged[4], merged[5], merged[6]])


def norm_act_value(x: Tensor, r: Tensor | None, hard: bool, channels: Tensor, samples: Tensor) -> Tensor:
    """As `cpu.norm_act_value`."""
    tiles, y = tiles_of(x), torch.empty_like(x)
    launch(
        "value", x, tiles.programs, 4,
        x, either(r, x), y, channels, channels, samples, channels, counters(x), *[channels] * 8,
        channels[5], channels[6],
        act_flags(x, x), 0.0, 0.0, 0.0, 0.0, 0.0, *tiles.sizes,
        True, NORM if r is None else NORM_ADD, hard, *tiles.compiled,
    )  # fmt: skip
    return y


def norm_act_sums(
    x: Tensor, r: Tensor | None, g: Tensor, hard: bool, channels: Tensor, samples: Tensor
) -> tuple[Tensor, Tensor]:
    """As `cpu.norm_act_sums`, but `norm_act_gradient` takes g itself: a GPU computes faster than it stores."""
    form = NORM if r is None else NORM_ADD
    sums, _ = sums_pass(
        x, r, g, channels, samples, channels[5], channels[6], act_flags(x, x), tiles_of(x), counters(x), form,
        hard,
    )  # fmt: skip
    found = sums.double()
    return (found if form == NORM_ADD else torch.cat([found, torch.zeros_like(found[:1])])), g


def norm_act_gradient(
    x: Tensor, r: Tensor | None, g: Tensor, hard: bool, channels: Tensor, samples: Tensor
) -> tuple[Tensor, Tensor | None]:
    """As `cpu.norm_act_gradient`."""
    tiles, dx, dr = tiles_of(x), torch.empty_like(x), None if r is None else torch.empty_like(r)
    launch(
        "gradient", x, tiles.programs, 4,
        x, either(r, x), g, dx, either(dr, x), channels, samples, channels[5], channels[6], channels, channels,
        samples[2:], channels[7:], counters(x), *[channels] * 5, act_flags(x, x), *tiles.sizes,
        True, NORM if r is None else NORM_ADD, hard, *tiles.compiled,
    )  # fmt: skip
    return dx, dr
