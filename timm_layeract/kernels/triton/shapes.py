"""How a tensor is cut for the Triton programs: tiles, splits and what the programs compile for.

Sizes are arguments of a program; what it is compiled for is the alignment of rows, and one of two tiles: one that is
long where elements lie side by side, and a square one for short rows.
"""

import math
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

__all__ = ["MOST_SHARES", "Rows", "Tiles", "cached_bytes", "rows_of", "tiles_of"]

VECTOR = 16  # bytes of the widest load
PROGRAMS = 2048  # that a pass is cut into where the tensor allows it
LONG, SQUARE = (4, 256), (16, 64)  # of a tile: across, along
FEW_COLUMNS = 64  # along which a long tile would be mostly empty
MOST_SPLITS = 32  # of a sample's tile columns, as its last program reduces them
# Elements of a sample up to which one program holds it in registers, with the warps for it.
REGISTERS = ((2048, 4), (8192, 16))
ROW_BLOCK, ROW_WARPS = 4096, 8  # of larger samples: elements at a time
ROW_BLOCKS, MOST_SHARES = 2, 128  # a split's least blocks; most splits of a sample


@dataclass(frozen=True)
class Tiles:
    """Arguments of the passes: ``sizes`` at run time, ``compiled`` for; and the grid."""

    sizes: tuple[int, ...]  # N, C, VECTORS, SLOW, BLOCKS, SPLITS
    compiled: tuple[object, ...]  # LAST, ALIGN, BLOCK_L, BLOCK_S
    programs: int
    partial: int  # numbers in one plane of partial sums
    merged: bool  # whether those are the sums of a (sample, channel) already


@dataclass(frozen=True)
class Rows:
    """The same for LayerAct without parameters; ``splits`` of 0: in registers."""

    vectors: int
    align: int
    blocks: int  # of a split
    splits: int
    block: int
    warps: int


def tiles_of(x: Tensor) -> Tiles:
    """The tiles of x ``(N, C, *)``, dense."""
    shape = x.shape
    n, c = shape[0], shape[1]
    positions = x.numel() // (n * c)
    return _tiles(n, c, positions, positions == 1 or not x.is_contiguous(), x.element_size(), PROGRAMS)


@lru_cache(1024)
def _tiles(n: int, c: int, positions: int, last: bool, size: int, programs: int) -> Tiles:
    fold = 1
    if last:  # positions side by side, to fill a long tile where channels are few
        fold = max(f for f in (1, 2, 4, 8, 16) if positions % f == 0 and (f == 1 or f * c <= LONG[1]))
    side, slow = (fold * c, positions // fold) if last else (positions, c)
    align = math.gcd(side, VECTOR // size)
    across, along = LONG if side > FEW_COLUMNS else SQUARE
    block_l, block_s = (along, across) if last else (across, along)
    lanes, steps = (side, slow) if last else (slow, side)
    columns = -(-lanes // block_l)
    splits = max(1, min(programs // (n * columns), -(-steps // block_s), MOST_SPLITS))
    of_split = -(-steps // (splits * block_s))
    splits = -(-steps // (of_split * block_s))
    return Tiles(
        sizes=(n, c, side // align, slow, of_split, splits),
        compiled=(last, align, block_l, block_s),
        programs=n * columns * splits,
        partial=n * splits * lanes,
        merged=splits * lanes == c,
    )


def rows_of(x: Tensor) -> Rows:
    """The splits of x ``(N, *)``, dense."""
    return _rows(x.numel() // len(x), x.element_size())


@lru_cache(1024)
def _rows(size: int, element: int) -> Rows:
    align = math.gcd(size, VECTOR // element)
    for block, warps in REGISTERS:
        if size <= block:
            return Rows(size // align, align, 1, 0, block, warps)
    blocks = max(ROW_BLOCKS, -(-size // (MOST_SHARES * ROW_BLOCK)))
    return Rows(size // align, align, blocks, -(-size // (blocks * ROW_BLOCK)), ROW_BLOCK, ROW_WARPS)


@lru_cache(16)
def cached_bytes(device: torch.device) -> int:
    """Bytes of input that may lie between the two readings of a sample: an eighth of the L2 cache (6 MB on an H100)."""
    if device.type != "cuda":
        return 1 << 22
    return torch.cuda.get_device_properties(device).L2_cache_size // 8
