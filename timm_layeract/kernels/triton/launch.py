"""Starting Triton programs, and what the two kinds of calls share."""

from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor

from ...compat.torch import accelerator
from .shapes import Tiles

__all__ = [
    "FEW",
    "LAYER",
    "NORM",
    "NORM_ADD",
    "R_BITS",
    "Has",
    "act_flags",
    "counters",
    "either",
    "launch",
    "stats_pass",
    "sums_pass",
]

LAYER, NORM, NORM_ADD = range(3)  # what a pass is of; NORM_ADD: with a residual
FEW = 16  # channels that one item reduces over all samples
R_BITS = 5  # flags of the residual's BatchNorm are so many bits higher


class Has:
    """What there is, as bits: of a BatchNorm; of an affine activation. (An enum's members take longer to read.)"""

    TRAINING, WEIGHT, BIAS, TRACKED, THERE = 1, 2, 4, 8, 16
    ACT_WEIGHT, ACT_BIAS = 1 << 10, 1 << 11


def launch(which: str, x: Tensor, programs: int, warps: int, *arguments: Any) -> None:
    """Start so many programs of one of `programs.py` on the device of x."""
    from . import programs as kernels  # importing triton takes longer than importing this package

    # Triton launches on the current device.
    here = x.device.type == "cpu" or x.device.index == accelerator.current_device_index()
    with nullcontext() if here else accelerator.device_index(x.device.index):
        getattr(kernels, which)[(programs,)](*arguments, num_warps=warps)


def counters(x: Tensor) -> Tensor:
    """Zeros to count with: programs that are done with each sample, and a queue's: two, and one a sample."""
    return torch.zeros(2 * x.shape[0] + 2, dtype=torch.int32, device=x.device)


def either(tensor: Tensor | None, other: Tensor) -> Tensor:
    """A tensor in any case, as None or one of another type is another program to compile: what is meant, flags say."""
    return other if tensor is None else tensor


def act_flags(weight: Tensor | None, bias: Tensor | None) -> int:
    """Which parameters an activation has."""
    return (0 if weight is None else Has.ACT_WEIGHT) | (0 if bias is None else Has.ACT_BIAS)


def stats_pass(x: Tensor, r: Tensor | None, tiles: Tiles, arrived: Tensor, form: int) -> Tensor:
    """For each (sample, channel) of x: pivot, mean less it, centred squares; of r too; products. ``(3 or 7, N, C)``."""
    planes = 7 if form == NORM_ADD else 3
    merged = torch.empty(planes, *x.shape[:2], device=x.device)
    partial = merged if tiles.merged else torch.empty(planes, tiles.partial, device=x.device)
    launch(
        "stats", x, tiles.programs, 4, x, either(r, x), partial, merged, arrived, *tiles.sizes, form, *tiles.compiled
    )  # fmt: skip
    return merged


def sums_pass(
    x: Tensor, r: Tensor | None, g: Tensor, channels: Tensor, samples: Tensor, w: Tensor, b: Tensor, flags: int,
    tiles: Tiles, arrived: Tensor, form: int, hard: bool,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """For each (sample, channel) what backward sums, ``(2, 4 or 5, N, C)``, and for each sample its two pulls."""
    planes = (2, 4, 5)[form]
    merged = torch.empty(planes, *x.shape[:2], device=x.device)
    partial = merged if tiles.merged else torch.empty(planes, tiles.partial, device=x.device)
    pulls = torch.empty(2, x.shape[0], device=x.device)
    launch(
        "sums", x, tiles.programs, 4,
        x, either(r, x), g, channels, samples, w, b, partial, merged, pulls, arrived, flags, *tiles.sizes,
        form, hard, *tiles.compiled,
    )  # fmt: skip
    return merged, pulls
