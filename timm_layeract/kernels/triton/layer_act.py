"""LayerAct by the Triton programs: one launch each way, two with affine parameters."""

import torch
from torch import Tensor

from .launch import FEW, LAYER, act_flags, counters, either, launch, stats_pass, sums_pass
from .shapes import MOST_SHARES, cached_bytes, rows_of, tiles_of

__all__ = ["layer_act_backward", "layer_act_forward"]


def layer_act_forward(
    x: Tensor, hard: bool, alpha: float, weight: Tensor | None, bias: Tensor | None, y: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """As `cpu.layer_act_forward`."""
    y = torch.empty_like(x) if y is None else y
    n = len(x)
    stats = torch.empty(n, 2, dtype=torch.float64, device=x.device)
    if weight is not None or bias is not None:
        _affine_forward(x, hard, alpha, weight, bias, y, stats)
        return y, stats
    rows = rows_of(x)
    if not rows.splits:
        launch("forward_one", x, n, rows.warps, x, y, stats, rows.vectors, alpha, hard, rows.align, rows.block)
        return y, stats
    partial = torch.empty(3, n, rows.splits, device=x.device)
    launch(
        "forward_split", x, 2 * n * rows.splits, rows.warps,
        x, y, stats, partial, counters(x), n, rows.vectors, rows.blocks, rows.splits, _lag(x, 1), alpha,
        hard, rows.align, rows.block, MOST_SHARES,
    )  # fmt: skip
    return y, stats


def layer_act_backward(
    x: Tensor, g: Tensor, stats: Tensor, hard: bool, weight: Tensor | None, bias: Tensor | None
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """As `cpu.layer_act_backward`, but the affine gradients are summed over the samples already, ``(1, C)``."""
    dx, n = torch.empty_like(x), len(x)
    if weight is not None or bias is not None:
        return dx, *_affine_backward(x, g, stats, hard, weight, bias, dx)
    rows = rows_of(x)
    if not rows.splits:
        launch("backward_one", x, n, rows.warps, x, g, dx, stats, rows.vectors, hard, rows.align, rows.block)
        return dx, None, None
    partial = torch.empty(2, n, rows.splits, device=x.device)
    launch(
        "backward_split", x, 2 * n * rows.splits, rows.warps,
        x, g, dx, stats, partial, counters(x), n, rows.vectors, rows.blocks, rows.splits, _lag(x, 2),
        hard, rows.align, rows.block, MOST_SHARES,
    )  # fmt: skip
    return dx, None, None


def _lag(x: Tensor, tensors: int) -> int:
    """Samples between the two readings of one: as many as the cache holds."""
    return max(1, min(len(x), cached_bytes(x.device) * len(x) // (tensors * x.numel() * x.element_size())))


def _affine_forward(
    x: Tensor, hard: bool, alpha: float, weight: Tensor | None, bias: Tensor | None, y: Tensor, stats: Tensor
) -> None:
    n, tiles = len(x), tiles_of(x)
    count = counters(x)
    none = merged = stats_pass(x, None, tiles, count, LAYER)
    launch(
        "value", x, n + tiles.programs, 4,
        x, x, y, merged, none, stats, none, count, *[none] * 8, either(weight, none), either(bias, none),
        act_flags(weight, bias), 0.0, 0.0, 0.0, 0.0, alpha, *tiles.sizes, False, LAYER, hard, *tiles.compiled,
    )  # fmt: skip


def _affine_backward(
    x: Tensor, g: Tensor, stats: Tensor, hard: bool, weight: Tensor | None, bias: Tensor | None, dx: Tensor
) -> tuple[Tensor, Tensor]:
    c, tiles = x.shape[1], tiles_of(x)
    count, flags = counters(x), act_flags(weight, bias)
    dw, db = torch.empty(1, c, device=x.device), torch.empty(1, c, device=x.device)
    w, b, none = either(weight, dw), either(bias, dw), dw
    sums, pulls = sums_pass(x, None, g, none, stats, w, b, flags, tiles, count, LAYER, hard)
    launch(
        "gradient", x, -(-c // FEW) + tiles.programs, 4,
        x, x, g, dx, x, none, stats, w, b, none, sums, pulls, none, count, none, none, none, dw, db, flags,
        *tiles.sizes, False, LAYER, hard, *tiles.compiled,
    )  # fmt: skip
    return dw, db
