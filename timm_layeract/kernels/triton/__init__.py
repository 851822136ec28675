"""The GPU kernels, in Triton: the same functions as `cpu`, for the same tensors on a GPU.

With TRITON_INTERPRET=1 they run on CPU tensors too, slowly, to be tested. Triton is imported when the first kernel
runs, as importing it takes longer than importing this package.
"""

import importlib.util
import os
from contextlib import nullcontext
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

__all__ = [
    "available",
    "layer_act_backward",
    "layer_act_forward",
    "norm_act_gradient",
    "norm_act_stats",
    "norm_act_sums",
    "norm_act_value",
]

# Samples up to this size are held in registers, and read once.
BLOCK = 16384
# Elements of a tile, and how many programs a pass is cut into where the tensor allows it.
TILE = 2048
PROGRAMS = 1024
DEVICES = ("cuda", "xpu")
_installed = importlib.util.find_spec("triton") is not None


def available(x: Tensor | None = None) -> bool:
    """Whether triton is installed and has a device, or an interpreter, to run on; with `x`, on its device."""
    interpreted = os.environ.get("TRITON_INTERPRET") == "1"
    if not _installed or x is None:
        return _installed and (interpreted or torch.accelerator.is_available())
    return x.device.type in DEVICES or (interpreted and x.device.type == "cpu")


def _programs() -> ModuleType:
    from . import passes  # see above

    return passes


def _shape(x: Tensor) -> tuple[int, int, int, bool]:
    """Samples, channels, positions, and whether channels lie side by side."""
    samples, channels = x.shape[:2]
    return samples, channels, x.numel() // (samples * channels), not x.is_contiguous()


def _run(
    which: str, form: str, hard: bool, x: Tensor, r: Tensor | None = None, g: Tensor | None = None,
    y: Tensor | None = None, dr: Tensor | None = None, channels: Tensor | None = None, samples: Tensor | None = None,
) -> Tensor:  # fmt: skip
    """One pass; returns its sums ``(7, shares, N, C)``, float32."""
    programs = _programs()
    n, c, positions, channels_last = _shape(x)
    block_c = min(64, _power_of_two(c)) if channels_last else max(1, TILE // _power_of_two(positions))
    block_c = min(block_c, _power_of_two(c))
    block_p = min(TILE // block_c, _power_of_two(positions))
    blocks = -(-c // block_c)
    splits = max(1, min(PROGRAMS // (n * blocks), positions // block_p))
    share = -(-positions // (splits * block_p)) * block_p
    splits = -(-positions // share)
    writes = which in ("STATS", "SUMS")
    out = torch.empty(7, splits, n, c, device=x.device) if writes else x
    strides = (1, c) if channels_last else (positions, 1)
    with _on_device(x):
        programs.run_pass[n, blocks, splits](
            x, x if r is None else r, x if g is None else g, x if y is None else y, x if dr is None else dr,
            x if channels is None else channels, x if samples is None else samples, out, n, c, positions, *strides,
            share, splits, getattr(programs, which), getattr(programs, form), hard, block_c, block_p,
        )  # fmt: skip
    return out if not writes or which == "SUMS" else _centre(out, share, positions)


def _on_device(x: Tensor) -> Any:
    """Triton launches on the current device; make it that of x."""
    return torch.accelerator.device_index(x.device.index) if x.device.type in DEVICES else nullcontext()


def _power_of_two(size: int) -> int:
    return 1 << (size - 1).bit_length()


def _centre(out: Tensor, share: int, positions: int) -> Tensor:
    """Means and centred squares and products ``(5, N, C)`` from every share's sums around its pivots."""
    s_x, ss_x, s_r, ss_r, s_xr, pivot_x, pivot_r = out.double()
    splits = out.shape[1]
    count = torch.full((splits, 1, 1), share, dtype=torch.float64, device=out.device)
    count[-1] = positions - share * (splits - 1)
    mean_x, mean_r = pivot_x + s_x / count, pivot_r + s_r / count
    m, k = (count * mean_x).sum(0) / positions, (count * mean_r).sum(0) / positions
    d_x, d_r = mean_x - m, mean_r - k
    q_x = (ss_x - s_x * s_x / count + count * d_x * d_x).sum(0)
    q_r = (ss_r - s_r * s_r / count + count * d_r * d_r).sum(0)
    q_xr = (s_xr - s_x * s_r / count + count * d_x * d_r).sum(0)
    return torch.stack([m, q_x, k, q_r, q_xr])


def norm_act_stats(x: Tensor, r: Tensor | None) -> Tensor:
    """As `cpu.norm_act_stats`."""
    return _run("STATS", "NORM" if r is None else "NORM_ADD", False, x, r)


def norm_act_value(x: Tensor, r: Tensor | None, hard: bool, channels: Tensor, samples: Tensor) -> Tensor:
    """As `cpu.norm_act_value`."""
    y = torch.empty_like(x)
    _run("VALUE", "NORM" if r is None else "NORM_ADD", hard, x, r, y=y, channels=channels, samples=samples)
    return y


def norm_act_sums(
    x: Tensor, r: Tensor | None, g: Tensor, hard: bool, channels: Tensor, samples: Tensor
) -> tuple[Tensor, Tensor]:
    """As `cpu.norm_act_sums`, but `norm_act_gradient` takes g itself: a GPU computes faster than it stores."""
    form = "NORM" if r is None else "NORM_ADD"
    return _run("SUMS", form, hard, x, r, g, channels=channels, samples=samples)[:5].double().sum(1), g


def norm_act_gradient(
    x: Tensor, r: Tensor | None, g: Tensor, hard: bool, channels: Tensor, samples: Tensor
) -> tuple[Tensor, Tensor | None]:
    """As `cpu.norm_act_gradient`."""
    dx, dr = torch.empty_like(x), None if r is None else torch.empty_like(r)
    _run("GRADIENT", "NORM" if r is None else "NORM_ADD", hard, x, r, g, dx, dr, channels, samples)
    return dx, dr


def layer_act_forward(
    x: Tensor, hard: bool, alpha: float, weight: Tensor | None, bias: Tensor | None, y: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """As `cpu.layer_act_forward`."""
    y = torch.empty_like(x) if y is None else y
    n, c, positions, channels_last = _shape(x)
    if c * positions <= BLOCK:
        stats = torch.empty(n, 2, dtype=torch.float64, device=x.device)
        with _on_device(x):
            _programs().forward_block[n,](
                x, y, stats, *_affine(x, weight, bias), n, c, positions, channels_last, alpha,
                hard, weight is not None, bias is not None, _power_of_two(c * positions),
            )  # fmt: skip
        return y, stats
    means, squares = _run("STATS", "LAYER", hard, x)[:2]
    mean = means.mean(1)
    spread = squares.sum(1) + positions * (means - mean[:, None]).square().sum(1)
    stats = torch.stack([mean, (spread / (c * positions) + alpha).rsqrt()], dim=1)
    _run("VALUE", "LAYER", hard, x, y=y, channels=_channels(x, weight, bias), samples=_samples(stats))
    return y, stats


def layer_act_backward(
    x: Tensor, g: Tensor, stats: Tensor, hard: bool, weight: Tensor | None, bias: Tensor | None
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """As `cpu.layer_act_backward`."""
    dx = torch.empty_like(x)
    n, c, positions, channels_last = _shape(x)
    if c * positions <= BLOCK:
        dweight, dbias = torch.zeros(2, n, c, device=x.device)
        with _on_device(x):
            _programs().backward_block[n,](
                x, g, dx, dweight, dbias, stats, *_affine(x, weight, bias), n, c, positions, channels_last,
                hard, weight is not None, bias is not None, _power_of_two(c * positions),
            )  # fmt: skip
        return dx, dweight, dbias
    channels, samples, rho = _channels(x, weight, bias), _samples(stats), stats[:, 1]
    h, hz = _run("SUMS", "LAYER", hard, x, g=g, channels=channels, samples=samples)[:2].double().sum(1)
    w = channels[5].double()
    samples[2], samples[3] = (h @ w) / (c * positions), rho.square() * (hz @ w) / (c * positions)
    _run("GRADIENT", "LAYER", hard, x, g=g, y=dx, channels=channels, samples=samples)
    return dx, rho[:, None] * hz, h


def _affine(x: Tensor, weight: Tensor | None, bias: Tensor | None) -> tuple[Tensor, Tensor]:
    return x if weight is None else weight, x if bias is None else bias


def _channels(x: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
    """Coefficients of each channel, of which LayerAct has the affine two."""
    channels = torch.zeros(11, x.shape[1], device=x.device)
    channels[5] = 1.0 if weight is None else weight
    if bias is not None:
        channels[6] = bias
    return channels


def _samples(stats: Tensor) -> Tensor:
    """Coefficients of each sample: mean in float32, inverse deviation, two for later, what rounding the mean left."""
    samples = torch.zeros(5, len(stats), device=stats.device)
    samples[0], samples[1] = stats.T
    samples[4] = samples[0].double() - stats[:, 0]
    return samples
