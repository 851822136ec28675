"""What BatchNorm + LayerAct reduces between the passes, on one number a (sample, channel), by torch operations.

The formulas are derived in `batch_norm`. Several processes together take these, as they exchange what lies between; one
by itself has the same in C (layeract.c) or in Triton (reduce.py), as so many operations take longer than a pass.
"""

import torch
from torch import Tensor

__all__ = ["norm_act_batch", "norm_act_layer", "norm_act_totals"]


def norm_act_batch(stats: Tensor, positions: int) -> Tensor:
    """Mean and centred squares of x and of r over the batch, ``(4, C)``, from `norm_act_stats`' ``(5, N, C)``."""

    def over_samples(mean: Tensor, squares: Tensor) -> list[Tensor]:
        centre = mean.mean(0)
        return [centre, squares.sum(0) + positions * (mean - centre).square().sum(0)]

    return torch.stack(over_samples(stats[0], stats[1]) + over_samples(stats[2], stats[3]))


def norm_act_layer(
    stats: Tensor, channels: Tensor, residual: bool, positions: int, alpha: float
) -> tuple[Tensor, Tensor]:
    """Statistics of every sample's layer, and what backward needs of `stats`.

    Returns:
        samples ``(4, N)``: mu, rho, two for backward to fill in; and kept ``(2, N, C)``, or ``(5, N, C)`` with a
        residual: m less the channel's centre, q, the same of the residual, q_xr. Both float32, as they are centred.
    """
    m, q, k, q_r, q_xr = stats
    centre, gain, shift, r_centre, r_gain = channels[:5].double()
    offset = m - centre
    mean, squares, kept = gain * offset + shift, gain.square() * q, [offset, q]
    if residual:
        r_offset = k - r_centre
        mean = mean + r_gain * r_offset
        squares = squares + 2 * gain * r_gain * q_xr + r_gain.square() * q_r
        kept += [r_offset, q_r, q_xr]
    mu = mean.mean(1)
    spread = squares.sum(1) + positions * (mean - mu[:, None]).square().sum(1)
    rho = (spread / (m.shape[1] * positions) + alpha).rsqrt()
    zero = torch.zeros_like(mu)
    return torch.stack([mu, rho, zero, zero]).float(), torch.stack(kept).float()


def norm_act_totals(
    sums: Tensor, kept: Tensor, channels: Tensor, samples: Tensor, positions: int
) -> tuple[Tensor, Tensor]:
    """Sums over samples, from `norm_act_sums`' ``(5, N, C)``.

    Returns:
        samples with backward's two numbers, mean(w h) and rho mean(w h n), filled in; and totals ``(5, C)`` float64:
        of dz, of dz times x and times r less their channel's centre, and the gradients of the activation's w and b.
    """
    h, hz, u, ux, ur = sums
    _, gain, bias, _, r_gain, w, *_ = channels.double()
    mu, rho = samples[0, :, None].double(), samples[1, :, None].double()
    offset, q, *of_residual = kept.double()
    r_offset, q_r, q_xr = of_residual or [torch.zeros_like(q)] * 3
    z_offset = gain * offset + r_gain * r_offset + bias - mu
    size = h.shape[1] * positions
    shift = (h @ w)[:, None] / size
    slope = rho.square() * (hz @ w)[:, None] / size

    def total(sum_u: Tensor, of_factor: Tensor | int, products: Tensor) -> Tensor:
        """Sum of dz times a factor, from that of u, of the factor, and of (z - mu) times it."""
        return (sum_u - rho * (shift * of_factor + slope * products)).sum(0)

    dz = total(u, positions, positions * z_offset)
    dz_x = total(ux, positions * offset, gain * q + r_gain * q_xr + positions * z_offset * offset)
    dz_r = total(ur, positions * r_offset, gain * q_xr + r_gain * q_r + positions * z_offset * r_offset)
    filled = torch.stack([samples[0], samples[1], shift[:, 0].float(), slope[:, 0].float()])
    return filled, torch.stack([dz, dz_x, dz_r, (rho * hz).sum(0), h.sum(0)])
