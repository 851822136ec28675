"""Triton: the four passes over a tensor, of BatchNorm + LayerAct and of the affine LayerAct; notation as cpu/passes.h.

A program takes a tile column (`parts.place`). What is to be known of a whole sample, its last program reduces; what of
whole channels, the first items of the next pass do, and its tiles wait for them.
"""

import triton
import triton.language as tl

from . import launch
from .parts import affine, announce, draw, of_scale, place, wait
from .reduce import (
    ACT_BIAS,
    ACT_WEIGHT,
    channel_backward,
    channel_forward,
    layer,
    merge_sample,
    merge_sums,
    sample_forward,
)

__all__ = ["gradient", "stats", "sums", "value"]

LAYER, NORM, NORM_ADD = tl.constexpr(launch.LAYER), tl.constexpr(launch.NORM), tl.constexpr(launch.NORM_ADD)
# Channels that an item reduces over all samples, samples that it takes at a time, and channels of a sample at a time.
FEW, ROWS, MANY = tl.constexpr(launch.FEW), tl.constexpr(32), tl.constexpr(128)
SIZES = ["N", "C", "VECTORS", "SLOW", "BLOCKS", "SPLITS", "flags"]


@triton.jit(do_not_specialize=SIZES)
def stats(
    x_at, r_at, partial, merged, arrived, N, C, VECTORS, SLOW, BLOCKS, SPLITS,
    FORM: tl.constexpr, LAST: tl.constexpr, ALIGN: tl.constexpr, BLOCK_L: tl.constexpr, BLOCK_S: tl.constexpr,
):  # fmt: skip
    """Of every lane in a split: pivot, mean less it, centred squares; the same of r; products. Then of channels."""
    n, split, lane, there, _, start, at, stride, first, last = place(
        tl.program_id(0), C, VECTORS, SLOW, BLOCKS, SPLITS, LAST, ALIGN, BLOCK_L, BLOCK_S
    )
    x_at += start
    r_at += start
    step = first + tl.arange(0, BLOCK_S)[None, :]
    mask = there[:, None] & (step < last)
    count = tl.minimum(BLOCK_S, last - first).to(tl.float32)
    M = tl.sum(tl.load(x_at + at + step * stride, mask=mask, other=0.0).to(tl.float32), axis=1) / count
    K = M
    if FORM == NORM_ADD:
        K = tl.sum(tl.load(r_at + at + step * stride, mask=mask, other=0.0).to(tl.float32), axis=1) / count
    s_x = tl.zeros((BLOCK_L, BLOCK_S), tl.float32)
    ss_x, s_r, ss_r, s_xr = s_x, s_x, s_x, s_x
    for begin in range(first, last, BLOCK_S):
        step = begin + tl.arange(0, BLOCK_S)[None, :]
        mask = there[:, None] & (step < last)
        a = tl.load(x_at + at + step * stride, mask=mask, other=0.0).to(tl.float32)
        a = tl.where(mask, a - M[:, None], 0.0)
        s_x += a
        ss_x += a * a
        if FORM == NORM_ADD:
            d = tl.load(r_at + at + step * stride, mask=mask, other=0.0).to(tl.float32)
            d = tl.where(mask, d - K[:, None], 0.0)
            s_r += d
            ss_r += d * d
            s_xr += a * d
    if LAST:
        lanes, steps = VECTORS * ALIGN, SLOW
    else:
        lanes, steps = SLOW, VECTORS * ALIGN
    out, plane = partial + (n * SPLITS + split) * lanes + lane, N * SPLITS * lanes
    count = (last - first).to(tl.float32)
    mean = tl.sum(s_x, axis=1) / count
    tl.store(out, M, mask=there)
    tl.store(out + plane, mean, mask=there)
    tl.store(out + 2 * plane, tl.sum(ss_x, axis=1) - count * mean * mean, mask=there)
    if FORM == NORM_ADD:
        mean_r = tl.sum(s_r, axis=1) / count
        tl.store(out + 3 * plane, K, mask=there)
        tl.store(out + 4 * plane, mean_r, mask=there)
        tl.store(out + 5 * plane, tl.sum(ss_r, axis=1) - count * mean_r * mean_r, mask=there)
        tl.store(out + 6 * plane, tl.sum(s_xr, axis=1) - count * mean * mean_r, mask=there)
    if SPLITS * lanes > C:  # else `partial` is `merged`
        programs = tl.cdiv(lanes, BLOCK_L) * SPLITS
        if announce(arrived + n) == programs - 1:
            merge_sample(partial, merged, n, N, C, lanes, steps, BLOCKS * BLOCK_S, SPLITS, FORM == NORM_ADD, MANY)


@triton.jit
def _coefficients(
    n, c, there, channels, samples, act_weight, act_bias, flags, N, C, FORM: tl.constexpr
):  # fmt: skip
    """What turns x (and r) into z and t: M, A, B, offset, K, R, w, b, rho."""
    w, b = affine(act_weight, act_bias, c, there, (flags & ACT_WEIGHT) != 0, (flags & ACT_BIAS) != 0)
    w, b = w[:, None], b[:, None]
    if FORM == LAYER:
        mean = tl.load(samples + 2 * n, cache_modifier=".cg")
        rho = tl.load(samples + 2 * n + 1, cache_modifier=".cg").to(tl.float32)
        M = mean.to(tl.float32)
        offset = (M.to(tl.float64) - mean).to(tl.float32)
        return M, w, w, offset, w, w, w, b, rho
    M = tl.load(channels + c, mask=there, other=0.0, cache_modifier=".cg")[:, None]
    A = tl.load(channels + C + c, mask=there, other=0.0, cache_modifier=".cg")[:, None]
    B = tl.load(channels + 2 * C + c, mask=there, other=0.0, cache_modifier=".cg")[:, None]
    K, R = M, A
    if FORM == NORM_ADD:
        K = tl.load(channels + 3 * C + c, mask=there, other=0.0, cache_modifier=".cg")[:, None]
        R = tl.load(channels + 4 * C + c, mask=there, other=0.0, cache_modifier=".cg")[:, None]
    offset = B - tl.load(samples + n, cache_modifier=".cg")
    return M, A, B, offset, K, R, w, b, tl.load(samples + N + n, cache_modifier=".cg")


@triton.jit
def _load_z(x_at, r_at, at, mask, M, A, B, K, R, FORM: tl.constexpr):
    """x and r less their centres, z less its shift, and z."""
    x = tl.load(x_at + at, mask=mask, other=0.0).to(tl.float32)
    x0 = x - M
    r0 = x0
    if FORM == LAYER:
        return x0, r0, x0, x
    z0 = x0 * A
    if FORM == NORM_ADD:
        r0 = tl.load(r_at + at, mask=mask, other=0.0).to(tl.float32) - K
        z0 += r0 * R
    return x0, r0, z0, z0 + B


@triton.jit(do_not_specialize=[*SIZES, "momentum", "eps", "r_momentum", "r_eps", "alpha"])
def value(
    x_at, r_at, y_at, merged, channels, samples, kept, counters, weight, bias, mean, var, r_weight, r_bias, r_mean,
    r_var, act_weight, act_bias, flags, momentum, eps, r_momentum, r_eps, alpha, N, C, VECTORS, SLOW, BLOCKS, SPLITS,
    ALONE: tl.constexpr, FORM: tl.constexpr, HARD: tl.constexpr, LAST: tl.constexpr, ALIGN: tl.constexpr,
    BLOCK_L: tl.constexpr, BLOCK_S: tl.constexpr,
):  # fmt: skip
    """The activation. First items: coefficients of channels, then of samples; ALONE finds both in place.

    counters: behind those of `stats`, how many items are drawn, how many of channels are done, and whether each sample
    is.
    """
    queue = counters + N
    P = VECTORS * ALIGN * SLOW // C
    of_channels = 0
    if FORM != LAYER:
        of_channels = tl.cdiv(C, FEW)
    item = tl.program_id(0) + of_channels + N if ALONE else draw(queue)
    if item < of_channels:
        if FORM != LAYER:
            channel_forward(
                item, merged, channels, weight, bias, mean, var, r_weight, r_bias, r_mean, r_var, flags, momentum, eps,
                r_momentum, r_eps, N, C, P, FORM == NORM_ADD, FEW,
            )  # fmt: skip
            announce(queue + 1)
    elif item < of_channels + N:
        n = item - of_channels
        if FORM == LAYER:
            layer(merged, samples, n, N, C, P, alpha, MANY)
        else:
            wait(queue + 1, of_channels)
            sample_forward(n, merged, channels, samples, kept, alpha, N, C, P, FORM == NORM_ADD, MANY)
        announce(queue + 2 + n)
    else:
        # From the end, which the pass before has read last and a cache may still hold.
        tiles = tl.cdiv(VECTORS * ALIGN, BLOCK_L) if LAST else tl.cdiv(SLOW, BLOCK_L)
        tile = N * tiles * SPLITS - 1 - (item - of_channels - N)
        n, _split, _lane, there, c, start, at, stride, first, last = place(
            tile, C, VECTORS, SLOW, BLOCKS, SPLITS, LAST, ALIGN, BLOCK_L, BLOCK_S
        )
        if not ALONE:
            wait(queue + 2 + n, 1)
        M, A, B, offset, K, R, w, b, rho = _coefficients(
            n, c, there, channels, samples, act_weight, act_bias, flags, N, C, FORM
        )
        for begin in range(first, last, BLOCK_S):
            step = begin + tl.arange(0, BLOCK_S)[None, :]
            mask = there[:, None] & (step < last)
            _x0, _r0, z0, z = _load_z(x_at + start, r_at + start, at + step * stride, mask, M, A, B, K, R, FORM)
            s, _slope = of_scale((z0 + offset) * (w * rho) + b, HARD)
            tl.store(y_at + start + at + step * stride, z * s, mask=mask)


@triton.jit(do_not_specialize=SIZES)
def sums(
    x_at, r_at, g_at, channels, samples, act_weight, act_bias, partial, merged, pulls, arrived, flags,
    N, C, VECTORS, SLOW, BLOCKS, SPLITS,
    FORM: tl.constexpr, HARD: tl.constexpr, LAST: tl.constexpr, ALIGN: tl.constexpr, BLOCK_L: tl.constexpr,
    BLOCK_S: tl.constexpr,
):  # fmt: skip
    """Of every lane in a split: sums of h, h (z - mu), u, u (x - M), u (r - K). Then of every channel and sample."""
    n, split, lane, there, c, start, at, stride, first, last = place(
        tl.program_id(0), C, VECTORS, SLOW, BLOCKS, SPLITS, LAST, ALIGN, BLOCK_L, BLOCK_S
    )
    M, A, B, offset, K, R, w, b, rho = _coefficients(
        n, c, there, channels, samples, act_weight, act_bias, flags, N, C, FORM
    )
    sum0 = tl.zeros((BLOCK_L, BLOCK_S), tl.float32)
    sum1, sum2, sum3, sum4 = sum0, sum0, sum0, sum0
    for begin in range(first, last, BLOCK_S):
        step = begin + tl.arange(0, BLOCK_S)[None, :]
        mask = there[:, None] & (step < last)
        g = tl.load(g_at + start + at + step * stride, mask=mask, other=0.0).to(tl.float32)
        x0, r0, z0, z = _load_z(x_at + start, r_at + start, at + step * stride, mask, M, A, B, K, R, FORM)
        s, slope = of_scale((z0 + offset) * (w * rho) + b, HARD)
        h = g * z * slope
        sum0 += h
        sum1 += h * (z0 + offset)
        if FORM != LAYER:
            u = g * s + h * (w * rho)
            sum2 += u
            sum3 += u * x0
            if FORM == NORM_ADD:
                sum4 += u * r0
    lanes = VECTORS * ALIGN if LAST else SLOW
    out, plane = partial + (n * SPLITS + split) * lanes + lane, N * SPLITS * lanes
    tl.store(out, tl.sum(sum0, axis=1), mask=there)
    tl.store(out + plane, tl.sum(sum1, axis=1), mask=there)
    if FORM != LAYER:
        tl.store(out + 2 * plane, tl.sum(sum2, axis=1), mask=there)
        tl.store(out + 3 * plane, tl.sum(sum3, axis=1), mask=there)
    if FORM == NORM_ADD:
        tl.store(out + 4 * plane, tl.sum(sum4, axis=1), mask=there)
    if announce(arrived + n) == tl.cdiv(lanes, BLOCK_L) * SPLITS - 1:
        size = (VECTORS * ALIGN).to(tl.float32) * SLOW
        planes: tl.constexpr = 2 if FORM == LAYER else 3 + FORM
        merge_sums(
            partial, merged, pulls, n, N, C, SPLITS * (lanes // C), size, rho, act_weight, (flags & ACT_WEIGHT) != 0,
            planes, MANY,
        )  # fmt: skip


@triton.jit
def _affine_backward(item, sums, samples, dact_weight, dact_bias, flags, N, C):
    """Gradients of the affine LayerAct's weight and bias, of a block of channels."""
    c = item * FEW + tl.arange(0, FEW)
    dw = tl.zeros((ROWS, FEW), tl.float32)
    db = dw
    for start in range(0, N, ROWS):
        n = start + tl.arange(0, ROWS)[:, None]
        full = (n < N) & (c < C)[None, :]
        rho = tl.load(samples + 2 * n + 1, mask=n < N, other=0.0).to(tl.float32)
        db += tl.load(sums + n * C + c[None, :], mask=full, other=0.0)
        dw += rho * tl.load(sums + (N + n) * C + c[None, :], mask=full, other=0.0)
    tl.store(dact_weight + c, tl.sum(dw, axis=0), mask=(c < C) & ((flags & ACT_WEIGHT) != 0))
    tl.store(dact_bias + c, tl.sum(db, axis=0), mask=(c < C) & ((flags & ACT_BIAS) != 0))


@triton.jit(do_not_specialize=SIZES)
def gradient(
    x_at, r_at, g_at, dx_at, dr_at, channels, samples, act_weight, act_bias, kept, sums, pulls, through, counters,
    dweight, dbias, dr_weight, dact_weight, dact_bias, flags, N, C, VECTORS, SLOW, BLOCKS, SPLITS,
    ALONE: tl.constexpr, FORM: tl.constexpr, HARD: tl.constexpr, LAST: tl.constexpr, ALIGN: tl.constexpr,
    BLOCK_L: tl.constexpr, BLOCK_S: tl.constexpr,
):  # fmt: skip
    """Gradients of x and r. First items: those of parameters, and what goes through batch statistics; not if ALONE.

    counters: behind those of `sums`, how many items are drawn, and how many of channels are done.
    """
    queue = counters + N
    P = VECTORS * ALIGN * SLOW // C
    of_channels = tl.cdiv(C, FEW)
    item = tl.program_id(0) + of_channels if ALONE else draw(queue)
    if item < of_channels:
        if FORM == LAYER:
            _affine_backward(item, sums, samples, dact_weight, dact_bias, flags, N, C)
        else:
            channel_backward(
                item, sums, kept, channels, samples, pulls, through, dweight, dbias, dr_weight, dact_weight, dact_bias,
                flags, N, C, P, FORM == NORM_ADD, ROWS, FEW,
            )  # fmt: skip
            announce(queue + 1)
    else:
        tiles = tl.cdiv(VECTORS * ALIGN, BLOCK_L) if LAST else tl.cdiv(SLOW, BLOCK_L)
        tile = N * tiles * SPLITS - 1 - (item - of_channels)
        n, _split, _lane, there, c, start, at, stride, first, last = place(
            tile, C, VECTORS, SLOW, BLOCKS, SPLITS, LAST, ALIGN, BLOCK_L, BLOCK_S
        )
        M, A, B, offset, K, R, w, b, rho = _coefficients(
            n, c, there, channels, samples, act_weight, act_bias, flags, N, C, FORM
        )
        pull, pull_z = tl.load(pulls + n), tl.load(pulls + N + n)
        x_shift, x_slope, r_shift, r_slope = w, w, w, w
        if FORM != LAYER:
            if not ALONE:
                wait(queue + 1, of_channels)
            x_shift = tl.load(through + c, mask=there, other=0.0, cache_modifier=".cg")[:, None]
            x_slope = tl.load(through + C + c, mask=there, other=0.0, cache_modifier=".cg")[:, None]
        if FORM == NORM_ADD:
            r_shift = tl.load(through + 2 * C + c, mask=there, other=0.0, cache_modifier=".cg")[:, None]
            r_slope = tl.load(through + 3 * C + c, mask=there, other=0.0, cache_modifier=".cg")[:, None]
        for begin in range(first, last, BLOCK_S):
            step = begin + tl.arange(0, BLOCK_S)[None, :]
            mask = there[:, None] & (step < last)
            g = tl.load(g_at + start + at + step * stride, mask=mask, other=0.0).to(tl.float32)
            x0, r0, z0, z = _load_z(x_at + start, r_at + start, at + step * stride, mask, M, A, B, K, R, FORM)
            s, slope = of_scale((z0 + offset) * (w * rho) + b, HARD)
            dz = g * s + rho * (w * (g * z * slope) - pull - pull_z * (z0 + offset))
            if FORM == LAYER:
                tl.store(dx_at + start + at + step * stride, dz, mask=mask)
            else:
                dx = A * (dz - x_shift - x_slope * x0)
                tl.store(dx_at + start + at + step * stride, dx, mask=mask)
            if FORM == NORM_ADD:
                dr = R * (dz - r_shift - r_slope * r0)
                tl.store(dr_at + start + at + step * stride, dr, mask=mask)
