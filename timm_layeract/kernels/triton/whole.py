"""Triton: LayerAct without parameters, for which a sample is one row; one launch each way.

A sample that fits is held in the registers of one program, and read once. Of larger ones, cut into splits, the items of
the queue are sums of splits and, some samples later, the values of those splits: their second reading finds them in the
cache. See `parts` for why waiting is safe.
"""

import triton
import triton.language as tl

from .parts import announce, draw, of_scale, wait

__all__ = ["backward_one", "backward_split", "forward_one", "forward_split"]

SIZES = ["N", "VECTORS", "BLOCKS", "SPLITS", "LAG", "alpha"]


@triton.jit(do_not_specialize=SIZES)
def forward_one(
    x_at, y_at, stats, VECTORS, alpha, HARD: tl.constexpr, ALIGN: tl.constexpr, BLOCK: tl.constexpr
):  # fmt: skip
    """LayerAct of one sample held in registers; stats (N, 2): mean and inverse deviation, float64."""
    n, i = tl.program_id(0), tl.arange(0, BLOCK)
    size = VECTORS * ALIGN
    mask = i < size
    at = n.to(tl.int64) * size + i
    x = tl.load(x_at + at, mask=mask, other=0.0).to(tl.float32)
    mean = tl.sum(x, axis=0) / size
    centred = tl.where(mask, x - mean, 0.0)
    rest = tl.sum(centred, axis=0) / size  # what rounding the mean left
    centred = tl.where(mask, centred - rest, 0.0)
    rho = 1.0 / tl.sqrt(tl.sum(centred * centred, axis=0) / size + alpha)
    s, _ = of_scale(rho * centred, HARD)
    tl.store(y_at + at, x * s, mask=mask)
    tl.store(stats + 2 * n, mean.to(tl.float64) + rest.to(tl.float64))
    tl.store(stats + 2 * n + 1, rho.to(tl.float64))


@triton.jit
def _of_sample(stats, n):
    """Mean as a float32 number and what that leaves, inverse deviation."""
    exact = tl.load(stats + 2 * n)
    mean = exact.to(tl.float32)
    return mean, (exact - mean.to(tl.float64)).to(tl.float32), tl.load(stats + 2 * n + 1).to(tl.float32)


@triton.jit(do_not_specialize=SIZES)
def backward_one(
    x_at, g_at, dx_at, stats, VECTORS, HARD: tl.constexpr, ALIGN: tl.constexpr, BLOCK: tl.constexpr
):  # fmt: skip
    """Gradient of one sample held in registers."""
    n, i = tl.program_id(0), tl.arange(0, BLOCK)
    size = VECTORS * ALIGN
    mask = i < size
    at = n.to(tl.int64) * size + i
    x = tl.load(x_at + at, mask=mask, other=0.0).to(tl.float32)
    g = tl.load(g_at + at, mask=mask, other=0.0).to(tl.float32)
    mean, rest, rho = _of_sample(stats, n)
    normalized = tl.where(mask, rho * ((x - mean) - rest), 0.0)
    s, slope = of_scale(normalized, HARD)
    h = g * x * slope
    of_h, of_hn = tl.sum(h, axis=0) / size, tl.sum(h * normalized, axis=0) / size
    tl.store(dx_at + at, g * s + rho * (h - of_h - of_hn * normalized), mask=mask)


@triton.jit
def _turn(item, N, SPLITS, LAG):
    """Sample and split of the item'th turn, and whether its sums are due or its values, `LAG` samples behind."""
    slot = item // SPLITS
    after = slot - LAG
    first = (slot < LAG) | ((after < 2 * (N - LAG)) & (after % 2 == 0))
    behind = tl.where(after < 2 * (N - LAG), after // 2, slot - N)
    return tl.where(first, tl.where(slot < LAG, slot, LAG + after // 2), behind), item % SPLITS, first


@triton.jit
def _mean_of(partial, n, N, SPLITS, share, size, alpha, MOST: tl.constexpr):
    """Pivot, the mean's distance from it and the inverse deviation of a sample, from those of its splits."""
    i = tl.arange(0, MOST)
    mask = i < SPLITS
    count = tl.where(mask, tl.minimum(share, size - i * share), 0).to(tl.float32)
    at, plane = partial + n * SPLITS + i, N * SPLITS
    pivot = tl.load(partial + n * SPLITS, cache_modifier=".cg")
    m = tl.load(at, mask=mask, other=0.0, cache_modifier=".cg") - pivot
    m = tl.where(mask, m + tl.load(at + plane, mask=mask, other=0.0, cache_modifier=".cg"), 0.0)
    d = tl.sum(count * m, axis=0) / size
    squares = tl.load(at + 2 * plane, mask=mask, other=0.0, cache_modifier=".cg") + count * (m - d) * (m - d)
    return pivot, d, 1.0 / tl.sqrt(tl.sum(squares, axis=0) / size + alpha)


@triton.jit(do_not_specialize=SIZES)
def forward_split(
    x_at, y_at, stats, partial, queue, N, VECTORS, BLOCKS, SPLITS, LAG, alpha,
    HARD: tl.constexpr, ALIGN: tl.constexpr, BLOCK: tl.constexpr, MOST: tl.constexpr,
):  # fmt: skip
    """LayerAct. queue: how many items are drawn, and how many splits of each sample are summed."""
    n, split, due = _turn(draw(queue), N, SPLITS, LAG)
    size = VECTORS * ALIGN
    x_at += n.to(tl.int64) * size
    first = split * (BLOCKS * BLOCK)
    last = tl.minimum(first + BLOCKS * BLOCK, size)
    if due:
        i = first + tl.arange(0, BLOCK)
        x = tl.load(x_at + i, mask=i < last, other=0.0).to(tl.float32)
        pivot = tl.sum(x, axis=0) / tl.minimum(BLOCK, last - first)
        s, ss = tl.zeros((BLOCK,), tl.float32), tl.zeros((BLOCK,), tl.float32)
        for start in range(first, last, BLOCK):
            i = start + tl.arange(0, BLOCK)
            a = tl.load(x_at + i, mask=i < last, other=0.0).to(tl.float32) - pivot
            a = tl.where(i < last, a, 0.0)
            s += a
            ss += a * a
        count = (last - first).to(tl.float32)
        mean = tl.sum(s, axis=0) / count
        of_split, plane = partial + n * SPLITS + split, N * SPLITS
        tl.store(of_split, pivot)
        tl.store(of_split + plane, mean)
        tl.store(of_split + 2 * plane, tl.sum(ss, axis=0) - count * mean * mean)
        announce(queue + 1 + n)
    else:
        wait(queue + 1 + n, SPLITS)
        pivot, d, rho = _mean_of(partial, n, N, SPLITS, BLOCKS * BLOCK, size, alpha, MOST)
        for start in range(first, last, BLOCK):
            i = start + tl.arange(0, BLOCK)
            x = tl.load(x_at + i, mask=i < last, other=0.0).to(tl.float32)
            s, _ = of_scale(rho * ((x - pivot) - d), HARD)
            tl.store(y_at + n.to(tl.int64) * size + i, x * s, mask=i < last)
        if split == 0:
            tl.store(stats + 2 * n, pivot.to(tl.float64) + d.to(tl.float64))
            tl.store(stats + 2 * n + 1, rho.to(tl.float64))


@triton.jit(do_not_specialize=SIZES)
def backward_split(
    x_at, g_at, dx_at, stats, partial, queue, N, VECTORS, BLOCKS, SPLITS, LAG,
    HARD: tl.constexpr, ALIGN: tl.constexpr, BLOCK: tl.constexpr, MOST: tl.constexpr,
):  # fmt: skip
    """Gradient; queue as in `forward_split`."""
    n, split, due = _turn(draw(queue), N, SPLITS, LAG)
    size = VECTORS * ALIGN
    x_at += n.to(tl.int64) * size
    g_at += n.to(tl.int64) * size
    first = split * (BLOCKS * BLOCK)
    last = tl.minimum(first + BLOCKS * BLOCK, size)
    mean, rest, rho = _of_sample(stats, n)
    if due:
        of_h, of_hn = tl.zeros((BLOCK,), tl.float32), tl.zeros((BLOCK,), tl.float32)
        for start in range(first, last, BLOCK):
            i = start + tl.arange(0, BLOCK)
            x = tl.load(x_at + i, mask=i < last, other=0.0).to(tl.float32)
            g = tl.load(g_at + i, mask=i < last, other=0.0).to(tl.float32)
            normalized = rho * ((x - mean) - rest)
            _, slope = of_scale(normalized, HARD)
            h = tl.where(i < last, g * x * slope, 0.0)
            of_h += h
            of_hn += h * normalized
        tl.store(partial + n * SPLITS + split, tl.sum(of_h, axis=0))
        tl.store(partial + (N + n) * SPLITS + split, tl.sum(of_hn, axis=0))
        announce(queue + 1 + n)
    else:
        wait(queue + 1 + n, SPLITS)
        every = tl.arange(0, MOST)
        at, mask = partial + n * SPLITS + every, every < SPLITS
        pull = tl.sum(tl.load(at, mask=mask, other=0.0, cache_modifier=".cg"), axis=0) / size
        pull_n = tl.sum(tl.load(at + N * SPLITS, mask=mask, other=0.0, cache_modifier=".cg"), axis=0) / size
        for start in range(first, last, BLOCK):
            i = start + tl.arange(0, BLOCK)
            x = tl.load(x_at + i, mask=i < last, other=0.0).to(tl.float32)
            g = tl.load(g_at + i, mask=i < last, other=0.0).to(tl.float32)
            normalized = rho * ((x - mean) - rest)
            s, slope = of_scale(normalized, HARD)
            dx = g * s + rho * (g * x * slope - pull - pull_n * normalized)
            tl.store(dx_at + n.to(tl.int64) * size + i, dx, mask=i < last)
