"""Triton: what is reduced between the passes, on one number a (sample, channel), as `..reductions` and `..batch_norm`.

Float32 throughout: numbers are kept around a pivot or a channel's centre, where float64 would add no digits that the
tensors have.
"""

import triton
import triton.language as tl

from .launch import R_BITS as OF_RESIDUAL
from .launch import Has
from .parts import merge

__all__ = [
    "ACT_BIAS",
    "ACT_WEIGHT",
    "channel_backward",
    "channel_forward",
    "layer",
    "merge_sample",
    "merge_sums",
    "sample_forward",
]

# What there is, as bits of `flags`; those of the residual's BatchNorm lie higher.
TRAINING, WEIGHT, BIAS = tl.constexpr(Has.TRAINING), tl.constexpr(Has.WEIGHT), tl.constexpr(Has.BIAS)
TRACKED, THERE, R_BITS = tl.constexpr(Has.TRACKED), tl.constexpr(Has.THERE), tl.constexpr(OF_RESIDUAL)
ACT_WEIGHT, ACT_BIAS = tl.constexpr(Has.ACT_WEIGHT), tl.constexpr(Has.ACT_BIAS)
# Rows of `channels`, which a channel's forward item writes.
CENTRE, GAIN, SHIFT, R_CENTRE, R_GAIN, INVERSE, REST, R_INVERSE, R_REST = (tl.constexpr(row) for row in range(9))


@triton.jit
def _get(array, row, n, c, N, C, mask):
    return tl.load(array + (row * N + n) * C + c, mask=mask, other=0.0, cache_modifier=".cg")


@triton.jit
def merge_sample(partial, merged, n, N, C, lanes, steps, SHARE, SPLITS, ADD: tl.constexpr, BLOCK: tl.constexpr):
    """Mean and squares of every channel of a sample from those of its tile columns."""
    fold = lanes // C
    for start in range(0, C, BLOCK):
        c = start + tl.arange(0, BLOCK)
        mask = c < C
        pivot, d, q, pivot_r, e, q_r, q_xr = merge(
            partial, N * SPLITS * lanes, n * SPLITS * lanes, C, SPLITS * fold, fold, SHARE, steps, c, mask, ADD, 8,
            BLOCK,
        )  # fmt: skip
        at, plane = merged + n * C + c, N * C
        tl.store(at, pivot, mask=mask)
        tl.store(at + plane, d, mask=mask)
        tl.store(at + 2 * plane, q, mask=mask)
        if ADD:
            tl.store(at + 3 * plane, pivot_r, mask=mask)
            tl.store(at + 4 * plane, e, mask=mask)
            tl.store(at + 5 * plane, q_r, mask=mask)
            tl.store(at + 6 * plane, q_xr, mask=mask)


@triton.jit
def _sum_rows(partial, q, n, N, C, rows, c, mask, BLOCK: tl.constexpr):
    """Sums of these channels over a sample's rows."""
    total = tl.zeros((8, BLOCK), tl.float32)
    for start in range(0, rows, 8):
        i = start + tl.arange(0, 8)[:, None]
        at = (q * N + n) * rows * C + i * C + c[None, :]
        total += tl.load(partial + at, mask=(i < rows) & mask[None, :], other=0.0, cache_modifier=".cg")
    return tl.sum(total, axis=0)


@triton.jit
def merge_sums(
    partial, sums, pulls, n, N, C, rows, size, rho, act_weight, has_weight, PLANES: tl.constexpr, BLOCK: tl.constexpr
):  # fmt: skip
    """Sums of every channel of a sample, and the sample's pull: mean(w h) and rho^2 mean(w h (z - mu))."""
    of_h, of_hz = tl.zeros((BLOCK,), tl.float32), tl.zeros((BLOCK,), tl.float32)
    for start in range(0, C, BLOCK):
        c = start + tl.arange(0, BLOCK)
        mask = c < C
        w = tl.load(act_weight + c, mask=mask & has_weight, other=1.0).to(tl.float32)
        for q in tl.static_range(PLANES):
            total = _sum_rows(partial, q, n, N, C, rows, c, mask, BLOCK)
            tl.store(sums + (q * N + n) * C + c, total, mask=mask)
            if q == 0:
                of_h += w * total
            if q == 1:
                of_hz += w * total
    tl.store(pulls + n, tl.sum(of_h, axis=0) / size)
    tl.store(pulls + N + n, rho * rho * tl.sum(of_hz, axis=0) / size)


@triton.jit
def layer(merged, stats, n, N, C, P, alpha, BLOCK: tl.constexpr):
    """Mean and inverse deviation of a sample, (N, 2) float64, from its channels' (LayerAct without BatchNorm)."""
    zero = tl.load(merged + n * C, cache_modifier=".cg")
    total = tl.zeros((BLOCK,), tl.float32)
    for start in range(0, C, BLOCK):
        c = start + tl.arange(0, BLOCK)
        m = (_get(merged, 0, n, c, N, C, c < C) - zero) + _get(merged, 1, n, c, N, C, c < C)
        total += tl.where(c < C, m, 0.0)
    mean = tl.sum(total, axis=0) / C
    spread = tl.zeros((BLOCK,), tl.float32)
    for start in range(0, C, BLOCK):
        c = start + tl.arange(0, BLOCK)
        m = (_get(merged, 0, n, c, N, C, c < C) - zero) + _get(merged, 1, n, c, N, C, c < C) - mean
        spread += tl.where(c < C, _get(merged, 2, n, c, N, C, c < C) + P * m * m, 0.0)
    tl.store(stats + 2 * n, zero.to(tl.float64) + mean.to(tl.float64))
    tl.store(stats + 2 * n + 1, (1.0 / tl.sqrt(tl.sum(spread, axis=0) / (C.to(tl.float32) * P) + alpha)).to(tl.float64))


@triton.jit
def _normalization(pivot, d, q, count, weight, running_mean, running_var, c, mask, flags, momentum, eps):
    """Centre, what rounding it left, gain and inverse deviation of a BatchNorm; updates the running statistics."""
    training, tracked = (flags & TRAINING) != 0, (flags & TRACKED) != 0
    mean_at, var_at = running_mean + c, running_var + c
    mean = tl.load(mean_at, mask=mask & tracked, other=0.0).to(tl.float32)
    var = tl.load(var_at, mask=mask & tracked, other=1.0).to(tl.float32)
    centre = tl.where(training, pivot + d, mean)
    rest = tl.where(training, d - (centre - pivot), 0.0)
    inverse = 1.0 / tl.sqrt(tl.where(training, q / count, var) + eps)
    update = mask & training & tracked
    tl.store(mean_at, mean + momentum * ((centre - mean) + rest), mask=update)
    tl.store(var_at, var + momentum * (q / (count - 1.0) - var), mask=update)
    gain = inverse * tl.load(weight + c, mask=mask & ((flags & WEIGHT) != 0), other=1.0).to(tl.float32)
    return centre, rest, gain, inverse


@triton.jit
def channel_forward(
    item, merged, channels, weight, bias, mean, var, r_weight, r_bias, r_mean, r_var, flags, momentum, eps, r_momentum,
    r_eps, N, C, P, ADD: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """A block of channels' coefficients from the statistics of all samples."""
    c = item * BLOCK + tl.arange(0, BLOCK)
    mask = c < C
    pivot, d, q, pivot_r, e, q_r, _q_xr = merge(merged, N * C, 0, C, N, 1, P, N * P, c, mask, ADD, 32, BLOCK)
    count = (N * P).to(tl.float32)
    centre, rest, gain, inverse = _normalization(
        pivot, d, q, count, weight, mean, var, c, mask, flags, momentum, eps
    )  # fmt: skip
    shift = tl.load(bias + c, mask=mask & ((flags & BIAS) != 0), other=0.0).to(tl.float32) - gain * rest
    at = channels + c
    if ADD:
        r_flags = flags >> R_BITS
        r_centre, r_rest, r_gain, r_inverse = _normalization(
            pivot_r, e, q_r, count, r_weight, r_mean, r_var, c, mask, r_flags, r_momentum, r_eps
        )
        there = (r_flags & THERE) != 0  # or the residual is added as it is
        r_centre, r_rest = tl.where(there, r_centre, 0.0), tl.where(there, r_rest, 0.0)
        r_gain = tl.where(there, r_gain, 1.0)
        shift += tl.load(r_bias + c, mask=mask & ((r_flags & BIAS) != 0), other=0.0).to(tl.float32) - r_gain * r_rest
        tl.store(at + R_CENTRE * C, r_centre, mask=mask)
        tl.store(at + R_GAIN * C, r_gain, mask=mask)
        tl.store(at + R_INVERSE * C, r_inverse, mask=mask)
        tl.store(at + R_REST * C, r_rest, mask=mask)
    tl.store(at + CENTRE * C, centre, mask=mask)
    tl.store(at + GAIN * C, gain, mask=mask)
    tl.store(at + SHIFT * C, shift, mask=mask)
    tl.store(at + INVERSE * C, inverse, mask=mask)
    tl.store(at + REST * C, rest, mask=mask)


@triton.jit
def _through_sites(merged, channels, n, c, N, C, mask, ADD: tl.constexpr):
    """Mean and centred squares of z, and the mean of x and r less their centres, of these channels of a sample."""
    centre, gain = _get(channels, CENTRE, 0, c, 1, C, mask), _get(channels, GAIN, 0, c, 1, C, mask)
    x = (_get(merged, 0, n, c, N, C, mask) - centre) + _get(merged, 1, n, c, N, C, mask)
    mean = gain * x + _get(channels, SHIFT, 0, c, 1, C, mask)
    squares = gain * gain * _get(merged, 2, n, c, N, C, mask)
    r = x
    if ADD:
        r_gain = _get(channels, R_GAIN, 0, c, 1, C, mask)
        r = _get(merged, 3, n, c, N, C, mask) - _get(channels, R_CENTRE, 0, c, 1, C, mask)
        r += _get(merged, 4, n, c, N, C, mask)
        mean += r_gain * r
        squares += r_gain * (2.0 * gain * _get(merged, 6, n, c, N, C, mask))
        squares += r_gain * r_gain * _get(merged, 5, n, c, N, C, mask)
    return mean, tl.maximum(squares, 0.0, propagate_nan=tl.PropagateNan.ALL), x, r


@triton.jit
def sample_forward(
    n, merged, channels, samples, kept, alpha, N, C, P, ADD: tl.constexpr, BLOCK: tl.constexpr
):  # fmt: skip
    """A sample's mu and rho; and of its channels what backward needs, around the centres."""
    total = tl.zeros((BLOCK,), tl.float32)
    for start in range(0, C, BLOCK):
        c = start + tl.arange(0, BLOCK)
        mask = c < C
        mean, squares, x, r = _through_sites(merged, channels, n, c, N, C, mask, ADD)
        total += tl.where(mask, mean, 0.0)
        at, plane = kept + n * C + c, N * C
        tl.store(at, x, mask=mask)
        tl.store(at + plane, _get(merged, 2, n, c, N, C, mask), mask=mask)
        if ADD:
            tl.store(at + 2 * plane, r, mask=mask)
            tl.store(at + 3 * plane, _get(merged, 5, n, c, N, C, mask), mask=mask)
            tl.store(at + 4 * plane, _get(merged, 6, n, c, N, C, mask), mask=mask)
    mu = tl.sum(total, axis=0) / C
    spread = tl.zeros((BLOCK,), tl.float32)
    for start in range(0, C, BLOCK):
        c = start + tl.arange(0, BLOCK)
        mask = c < C
        mean, squares, x, r = _through_sites(merged, channels, n, c, N, C, mask, ADD)
        spread += tl.where(mask, squares + P * (mean - mu) * (mean - mu), 0.0)
    tl.store(samples + n, mu)
    tl.store(samples + N + n, 1.0 / tl.sqrt(tl.sum(spread, axis=0) / (C.to(tl.float32) * P) + alpha))


@triton.jit
def _through_batch(dz, dz_x, inverse, rest, count, training):
    """The batch statistics' share in a gradient, shift and slope; and the gradient of gamma."""
    of_gamma = dz_x - rest * dz
    slope = tl.where(training, inverse * inverse * of_gamma / count, 0.0)
    return tl.where(training, dz / count, 0.0) - slope * rest, slope, inverse * of_gamma


@triton.jit
def channel_backward(
    item, sums, kept, channels, samples, pulls, through, dweight, dbias, dr_weight, dact_weight, dact_bias, flags,
    N, C, P, ADD: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """A block of channels' gradients of parameters, and the shares of batch statistics, over all samples."""
    c = item * BLOCK + tl.arange(0, BLOCK)
    mask = c < C
    gain, shift = _get(channels, GAIN, 0, c, 1, C, mask), _get(channels, SHIFT, 0, c, 1, C, mask)
    r_gain = gain
    if ADD:
        r_gain = _get(channels, R_GAIN, 0, c, 1, C, mask)
    dz = tl.zeros((ROWS, BLOCK), tl.float32)
    dz_x, dz_r, dw, db = dz, dz, dz, dz
    for start in range(0, N, ROWS):
        n = start + tl.arange(0, ROWS)[:, None]
        row = n < N
        full = row & mask[None, :]
        mu, rho = tl.load(samples + n, mask=row, other=0.0), tl.load(samples + N + n, mask=row, other=0.0)
        pull = tl.load(pulls + n, mask=row, other=0.0)
        pull_z = tl.load(pulls + N + n, mask=row, other=0.0)
        k = c[None, :]
        x, q = _get(kept, 0, n, k, N, C, full), _get(kept, 1, n, k, N, C, full)
        z = gain[None, :] * x + (shift[None, :] - mu)
        products = gain[None, :] * q
        if ADD:
            r, q_r = _get(kept, 2, n, k, N, C, full), _get(kept, 3, n, k, N, C, full)
            q_xr = _get(kept, 4, n, k, N, C, full)
            z += r_gain[None, :] * r
            products += r_gain[None, :] * q_xr
            of_r = pull * (P * r) + pull_z * (gain[None, :] * q_xr + r_gain[None, :] * q_r + P * z * r)
            dz_r += tl.where(full, _get(sums, 4, n, k, N, C, full) - rho * of_r, 0.0)
        dz += tl.where(full, _get(sums, 2, n, k, N, C, full) - rho * P * (pull + pull_z * z), 0.0)
        of_x = pull * (P * x) + pull_z * (products + P * z * x)
        dz_x += tl.where(full, _get(sums, 3, n, k, N, C, full) - rho * of_x, 0.0)
        dw += rho * _get(sums, 1, n, k, N, C, full)
        db += _get(sums, 0, n, k, N, C, full)
    _store_channels(
        c, mask, tl.sum(dz, axis=0), tl.sum(dz_x, axis=0), tl.sum(dz_r, axis=0), channels, through, dweight, dbias,
        dr_weight, flags, C, (N * P).to(tl.float32), ADD,
    )  # fmt: skip
    tl.store(dact_weight + c, tl.sum(dw, axis=0), mask=mask & ((flags & ACT_WEIGHT) != 0))
    tl.store(dact_bias + c, tl.sum(db, axis=0), mask=mask & ((flags & ACT_BIAS) != 0))


@triton.jit
def _store_channels(
    c, mask, dz, dz_x, dz_r, channels, through, dweight, dbias, dr_weight, flags, C, count, ADD: tl.constexpr
):  # fmt: skip
    inverse, rest = _get(channels, INVERSE, 0, c, 1, C, mask), _get(channels, REST, 0, c, 1, C, mask)
    shift, slope, dgamma = _through_batch(dz, dz_x, inverse, rest, count, (flags & TRAINING) != 0)
    tl.store(through + c, shift, mask=mask)
    tl.store(through + C + c, slope, mask=mask)
    tl.store(dweight + c, dgamma, mask=mask & ((flags & WEIGHT) != 0))
    has_bias = (flags & BIAS) != 0
    if ADD:
        r_flags = flags >> R_BITS
        has_bias = has_bias | ((r_flags & BIAS) != 0)
        there = (r_flags & THERE) != 0
        inverse, rest = _get(channels, R_INVERSE, 0, c, 1, C, mask), _get(channels, R_REST, 0, c, 1, C, mask)
        shift, slope, dgamma = _through_batch(dz, dz_r, inverse, rest, count, there & ((r_flags & TRAINING) != 0))
        tl.store(through + 2 * C + c, shift, mask=mask)
        tl.store(through + 3 * C + c, slope, mask=mask)
        tl.store(dr_weight + c, dgamma, mask=mask & ((r_flags & WEIGHT) != 0))
    tl.store(dbias + c, dz, mask=mask & has_bias)
