"""What the Triton programs share: the scale, queues of items, the place of a tile, sums over rows.

A kernel in which some items wait for what others of the same launch compute takes its items from a queue: a program
draws the next number, and only ever waits for items of lower numbers. Those are running or done, whatever else the GPU
has room for, so that no launch can block; and an interpreter that runs programs one after the other never waits.
"""

import triton
import triton.language as tl

__all__ = ["affine", "announce", "draw", "merge", "of_scale", "place", "wait"]


@triton.jit
def of_scale(t, HARD: tl.constexpr):
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
def draw(counter):
    """The next item's number."""
    return tl.atomic_add(counter, 1, sem="relaxed")


@triton.jit
def announce(counter):
    """Count one more item whose stores are done; returns how many there were before."""
    tl.debug_barrier()  # of all threads of this program
    return tl.atomic_add(counter, 1, sem="acq_rel")


@triton.jit
def wait(counter, items):
    """Until so many items of lower numbers are done; then what they stored can be loaded (.cg: past the L1 cache)."""
    while tl.atomic_add(counter, 0, sem="acquire") < items:
        pass
    tl.debug_barrier()


@triton.jit
def place(
    item, C, VECTORS, SLOW, BLOCKS, SPLITS, LAST: tl.constexpr, ALIGN: tl.constexpr, BLOCK_L: tl.constexpr,
    BLOCK_S: tl.constexpr,
):  # fmt: skip
    """Where the item'th tile column lies: sample, split, lanes and their channels, first and last step.

    A sample is a matrix of lanes x steps. Contiguous: a lane is a channel, its steps are positions, side by side.
    Channels-last: lanes lie side by side, a step is a row of `C`, or of several positions' channels where C is small,
    so lane v belongs to channel v % C. What lies side by side is `VECTORS` vectors of `ALIGN` elements, so that the
    compiler knows of the alignment; for the same reason a split is `BLOCKS` blocks of steps.
    """
    side = VECTORS * ALIGN
    if LAST:
        lanes, steps = side, SLOW
    else:
        lanes, steps = SLOW, side
    columns = tl.cdiv(lanes, BLOCK_L)
    n = item // (columns * SPLITS)
    rest = item % (columns * SPLITS)
    split = rest // columns
    lane = (rest % columns) * BLOCK_L + tl.arange(0, BLOCK_L)
    first = split * (BLOCKS * BLOCK_S)
    start = n.to(tl.int64) * side * SLOW
    if LAST:
        c, at, stride = lane % C, lane, side
    else:
        c, at, stride = lane, lane * side, 1
    last = tl.minimum(first + BLOCKS * BLOCK_S, steps)
    return n, split, lane, lane < lanes, c, start, at[:, None], stride, first, last


@triton.jit
def affine(weight, bias, c, mask, has_weight, has_bias):
    """Coefficients of each channel, 1 and 0 where there are none."""
    w = tl.load(weight + c, mask=mask & has_weight, other=1.0).to(tl.float32)
    b = tl.load(bias + c, mask=mask & has_bias, other=0.0).to(tl.float32)
    return w, b


@triton.jit
def _merge_tile(m, q, count, mask, d, tile):
    """Mean of a tile of rows less that of those before, and what its squares add to theirs."""
    mean = tl.sum(count * m, axis=0) / tile
    between = tl.where(mask, m - mean[None, :], 0.0)
    return mean - d, tl.sum(q, axis=0), between


@triton.jit
def merge(
    stats, plane, first, stride, rows, fold, share, total, c, mask, ADD: tl.constexpr, ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
):  # fmt: skip
    """Mean and centred squares of these channels over rows, as pivot, distance from it and squares; float32 throughout.

    A row holds the same of `share` elements (the last `fold` rows of what is left of `total`), so that means of any
    size cost no digits: pivots are subtracted from each other, and squares only ever added (Chan et al. 1979). `stats`
    has planes: pivot, distance, squares of x; with ADD those of the residual, and the centred products.
    """
    at = stats + first + c
    pivot = tl.load(at, mask=mask, other=0.0, cache_modifier=".cg")
    d = tl.zeros((BLOCK,), tl.float32)
    q, e, q_r, q_xr, pivot_r = d, d, d, d, d
    if ADD:
        pivot_r = tl.load(at + 3 * plane, mask=mask, other=0.0, cache_modifier=".cg")
    before = 0.0
    for start in range(0, rows, ROWS):
        i = start + tl.arange(0, ROWS)[:, None]
        full = (i < rows) & mask[None, :]
        count = tl.where(i < rows, tl.minimum(share, total - (i // fold) * share), 0).to(tl.float32)
        row = at[None, :] + i * stride
        m = tl.load(row, mask=full, other=0.0, cache_modifier=".cg") - pivot[None, :]
        m = tl.where(full, m + tl.load(row + plane, mask=full, other=0.0, cache_modifier=".cg"), 0.0)
        squares = tl.load(row + 2 * plane, mask=full, other=0.0, cache_modifier=".cg")
        tile = tl.sum(tl.sum(count, axis=1), axis=0)
        share_of_tile = tile / (before + tile)
        delta, within, between = _merge_tile(m, squares, count, full, d, tile)
        q += within + tl.sum(count * between * between, axis=0) + delta * delta * before * share_of_tile
        d += delta * share_of_tile
        if ADD:
            k = tl.load(row + 3 * plane, mask=full, other=0.0, cache_modifier=".cg") - pivot_r[None, :]
            k = tl.where(full, k + tl.load(row + 4 * plane, mask=full, other=0.0, cache_modifier=".cg"), 0.0)
            squares_r = tl.load(row + 5 * plane, mask=full, other=0.0, cache_modifier=".cg")
            products = tl.load(row + 6 * plane, mask=full, other=0.0, cache_modifier=".cg")
            delta_r, within_r, between_r = _merge_tile(k, squares_r, count, full, e, tile)
            q_r += within_r + tl.sum(count * between_r * between_r, axis=0) + delta_r * delta_r * before * share_of_tile
            q_xr += tl.sum(products, axis=0) + tl.sum(count * between * between_r, axis=0)
            q_xr += delta * delta_r * before * share_of_tile
            e += delta_r * share_of_tile
        before += tile
    return pivot, d, q, pivot_r, e, q_r, q_xr
