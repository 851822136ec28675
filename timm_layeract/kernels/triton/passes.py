"""The Triton programs: the passes of cpu/passes.h on tiles of channels x positions, and LayerAct of a small sample.

Notation as there. A program takes a block of channels of one sample, and of its positions a share; the sums of several
shares are put together afterwards.
"""

import triton
import triton.language as tl

__all__ = [
    "GRADIENT",
    "LAYER",
    "NORM",
    "NORM_ADD",
    "STATS",
    "SUMS",
    "VALUE",
    "backward_block",
    "forward_block",
    "run_pass",
]

STATS, VALUE, SUMS, GRADIENT = (tl.constexpr(number) for number in range(4))
LAYER, NORM, NORM_ADD = (tl.constexpr(number) for number in range(3))


@triton.jit
def _scale(t, HARD: tl.constexpr):
    """The scale function at t, and its slope there."""
    if HARD:
        s = tl.where(t <= -3.0, 0.0, tl.where(t >= 3.0, 1.0, (t + 3.0) / 6.0))
        slope = tl.where((t > -3.0) & (t < 3.0), 1.0 / 6.0, s - s)
    else:
        e = tl.exp(-tl.abs(t))  # never overflows
        s = tl.where(t < 0, e, 1.0) / (1.0 + e)
        slope = s * (1.0 - s)
    return s, slope


@triton.jit
def _coefficient(channels, row, c, C, mask):
    return tl.load(channels + row * C + c, mask=mask, other=0.0)[:, None]


@triton.jit
def _store_sum(out, q, total, split, n, c, N, C, SPLITS, mask):
    tl.store(out + ((q * SPLITS + split) * N + n) * C + c, total, mask=mask)


@triton.jit
def run_pass(
    x_at, r_at, g_at, y_at, dr_at, channels, samples, out, N, C, P, stride_c, stride_p, share, SPLITS,
    PASS: tl.constexpr, FORM: tl.constexpr, HARD: tl.constexpr, BLOCK_C: tl.constexpr, BLOCK_P: tl.constexpr,
):  # fmt: skip
    """One pass. samples: (5, N) = M (LAYER) or mu, rho, shift, slope, offset (LAYER); channels: (11, C)."""
    n, split = tl.program_id(0), tl.program_id(2)
    c = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    of_channel = c < C
    base = n.to(tl.int64) * C * P + c[:, None] * stride_c
    first = split * share
    last = tl.minimum(first + share, P)

    if PASS == STATS:
        p = first + tl.arange(0, BLOCK_P)[None, :]
        mask = of_channel[:, None] & (p < last)
        count = tl.minimum(BLOCK_P, last - first).to(tl.float32)
        M = (tl.sum(tl.load(x_at + base + p * stride_p, mask=mask, other=0.0).to(tl.float32), axis=1) / count)[:, None]
        K = M
        if FORM == NORM_ADD:
            K = (
                tl.sum(tl.load(r_at + base + p * stride_p, mask=mask, other=0.0).to(tl.float32), axis=1)[:, None]
                / count
            )
    else:
        rho, shift, slope = tl.load(samples + N + n), tl.load(samples + 2 * N + n), tl.load(samples + 3 * N + n)
        w, b = _coefficient(channels, 5, c, C, of_channel), _coefficient(channels, 6, c, C, of_channel)
        if FORM == LAYER:
            M, offset = tl.load(samples + n), tl.load(samples + 4 * N + n)
        else:
            M, A = _coefficient(channels, 0, c, C, of_channel), _coefficient(channels, 1, c, C, of_channel)
            B = _coefficient(channels, 2, c, C, of_channel)
            offset = B - tl.load(samples + n)
            x_shift, x_slope = _coefficient(channels, 7, c, C, of_channel), _coefficient(channels, 8, c, C, of_channel)
        if FORM == NORM_ADD:
            K, R = _coefficient(channels, 3, c, C, of_channel), _coefficient(channels, 4, c, C, of_channel)
            r_shift, r_slope = _coefficient(channels, 9, c, C, of_channel), _coefficient(channels, 10, c, C, of_channel)
        gain = w * rho

    sum0 = tl.zeros((BLOCK_C, BLOCK_P), tl.float32)
    sum1, sum2, sum3, sum4 = sum0, sum0, sum0, sum0
    for start in range(first, last, BLOCK_P):
        p = start + tl.arange(0, BLOCK_P)[None, :]
        mask = of_channel[:, None] & (p < last)
        at = base + p * stride_p
        x = tl.load(x_at + at, mask=mask, other=0.0).to(tl.float32)
        if FORM == NORM_ADD:
            r = tl.load(r_at + at, mask=mask, other=0.0).to(tl.float32)
        if PASS == STATS:
            a = tl.where(mask, x - M, 0.0)
            sum0 += a
            sum1 += a * a
            if FORM == NORM_ADD:
                d = tl.where(mask, r - K, 0.0)
                sum2 += d
                sum3 += d * d
                sum4 += a * d
        else:
            if FORM == LAYER:
                y0, z = x - M, x
            else:
                y0 = (x - M) * A
                if FORM == NORM_ADD:
                    y0 += (r - K) * R
                z = y0 + B
            s, steepness = _scale((y0 + offset) * gain + b, HARD)
            if PASS == VALUE:
                tl.store(y_at + at, z * s, mask=mask)
            else:
                g = tl.load(g_at + at, mask=mask, other=0.0).to(tl.float32)
                h = g * z * steepness
                if PASS == SUMS:
                    sum0 += h
                    sum1 += h * (y0 + offset)
                    if FORM != LAYER:
                        u = g * s + h * gain
                        sum2 += u
                        sum3 += u * (x - M)
                        if FORM == NORM_ADD:
                            sum4 += u * (r - K)
                else:
                    dz = g * s + rho * (w * h - shift - slope * (y0 + offset))
                    if FORM == LAYER:
                        tl.store(y_at + at, dz, mask=mask)
                    else:
                        tl.store(y_at + at, A * (dz - x_shift - x_slope * (x - M)), mask=mask)
                    if FORM == NORM_ADD:
                        tl.store(dr_at + at, R * (dz - r_shift - r_slope * (r - K)), mask=mask)

    if (PASS == STATS) or (PASS == SUMS):  # noqa: SIM109 (Triton knows no `in`)
        _store_sum(out, 0, tl.sum(sum0, axis=1), split, n, c, N, C, SPLITS, of_channel)
        _store_sum(out, 1, tl.sum(sum1, axis=1), split, n, c, N, C, SPLITS, of_channel)
        _store_sum(out, 2, tl.sum(sum2, axis=1), split, n, c, N, C, SPLITS, of_channel)
        _store_sum(out, 3, tl.sum(sum3, axis=1), split, n, c, N, C, SPLITS, of_channel)
        _store_sum(out, 4, tl.sum(sum4, axis=1), split, n, c, N, C, SPLITS, of_channel)
    if PASS == STATS:  # the pivots that the sums are taken around
        _store_sum(out, 5, tl.sum(M, axis=1), split, n, c, N, C, SPLITS, of_channel)
        _store_sum(out, 6, tl.sum(K, axis=1), split, n, c, N, C, SPLITS, of_channel)


@triton.jit
def _affine(weight, bias, i, mask, C, P, channels_last, HAS_WEIGHT: tl.constexpr, HAS_BIAS: tl.constexpr):
    """The affine coefficients of element i of a sample."""
    c = tl.where(channels_last, i % C, i // P)
    w = tl.load(weight + c, mask=mask, other=0.0) if HAS_WEIGHT else tl.full(i.shape, 1.0, tl.float32)
    b = tl.load(bias + c, mask=mask, other=0.0) if HAS_BIAS else tl.zeros(i.shape, tl.float32)
    return w, b


@triton.jit
def forward_block(
    x_at, y_at, stats, weight, bias, N, C, P, channels_last, alpha,
    HARD: tl.constexpr, HAS_WEIGHT: tl.constexpr, HAS_BIAS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """LayerAct of one sample held in registers; stats (N, 2): mean and inverse deviation."""
    n, i = tl.program_id(0), tl.arange(0, BLOCK)
    size = C * P
    mask = i < size
    at = n.to(tl.int64) * size + i
    x = tl.load(x_at + at, mask=mask, other=0.0).to(tl.float32)
    mean = tl.sum(x, axis=0) / size
    centred = tl.where(mask, x - mean, 0.0)
    rest = tl.sum(centred, axis=0) / size  # what rounding the mean left
    centred = tl.where(mask, centred - rest, 0.0)
    rho = 1.0 / tl.sqrt(tl.sum(centred * centred, axis=0) / size + alpha)
    w, b = _affine(weight, bias, i, mask, C, P, channels_last, HAS_WEIGHT, HAS_BIAS)
    s, _ = _scale(w * (rho * centred) + b, HARD)
    tl.store(y_at + at, x * s, mask=mask)
    tl.store(stats + 2 * n, mean.to(tl.float64) + rest.to(tl.float64))
    tl.store(stats + 2 * n + 1, rho.to(tl.float64))


@triton.jit
def backward_block(
    x_at, g_at, dx_at, dweight, dbias, stats, weight, bias, N, C, P, channels_last,
    HARD: tl.constexpr, HAS_WEIGHT: tl.constexpr, HAS_BIAS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Gradient of one sample held in registers; of weight and bias per sample, (N, C), added to what is there."""
    n, i = tl.program_id(0), tl.arange(0, BLOCK)
    size = C * P
    mask = i < size
    at = n.to(tl.int64) * size + i
    x = tl.load(x_at + at, mask=mask, other=0.0).to(tl.float32)
    g = tl.load(g_at + at, mask=mask, other=0.0).to(tl.float32)
    exact = tl.load(stats + 2 * n)
    mean = exact.to(tl.float32)
    rho = tl.load(stats + 2 * n + 1).to(tl.float32)
    normalized = tl.where(mask, rho * ((x - mean) - (exact - mean.to(tl.float64)).to(tl.float32)), 0.0)
    w, b = _affine(weight, bias, i, mask, C, P, channels_last, HAS_WEIGHT, HAS_BIAS)
    s, steepness = _scale(w * normalized + b, HARD)
    h = g * x * steepness
    shift = tl.sum(w * h, axis=0) / size
    slope = tl.sum(w * h * normalized, axis=0) / size
    tl.store(dx_at + at, g * s + rho * (w * h - shift - slope * normalized), mask=mask)
    if HAS_WEIGHT or HAS_BIAS:
        c = n.to(tl.int64) * C + tl.where(channels_last, i % C, i // P)
        tl.atomic_add(dweight + c, h * normalized, mask=mask)
        tl.atomic_add(dbias + c, h, mask=mask)
