"""Segmenting an image of any size by overlapping tiles, blended so that no seam shows."""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import UserError
from ..layers import LayerAct
from .images import padded_from
from .notes import read_note, write_note

__all__ = [
    "Tiles",
    "check_tiles",
    "count_tiles",
    "of_side",
    "predict_bands",
    "record_window",
    "recorded_size",
    "tiles_for",
]

WINDOW_NOTE = "trained on windows of {} pixels a side"  # in timm's config
RESIZED_NOTE = "trained on images resized to {} pixels a side"  # likewise


class Tiles(NamedTuple):
    """How an image is cut: the side of a tile, and what neighbours share, in pixels."""

    side: int
    overlap: int


WIDE = Tiles(512, 64)  # where a tile's size changes little of what is computed in its middle


def of_side(side: int) -> Tiles:
    """Tiles of that side, which share a quarter of it, or `WIDE`'s overlap where that is less."""
    return Tiles(side, min(side // 4, WIDE.overlap))


def record_window(network: nn.Module, side: int, resized: bool = False) -> None:
    """Note in a network's config how large the windows were that it was trained on, or the images after resizing."""
    write_note(network, WINDOW_NOTE, None if resized else (side,))
    write_note(network, RESIZED_NOTE, (side,) if resized else None)


def recorded_size(network: nn.Module) -> int | None:
    """The side that images are resized to according to a network's config; None if it sees them in tiles."""
    noted = read_note(network, RESIZED_NOTE)
    return int(noted[0]) if noted else None


def tiles_for(network: nn.Module, stride: int, window: int | None = None) -> Tiles:
    """Tiles in which a network sees what it was trained on.

    LayerAct takes statistics of all that a network sees at once, so that a network with it is another one on other
    sizes: it gets tiles of its training windows' size, a quarter of them shared. Others get large ones.

    Args:
        network: Of segmentation.
        stride: What the network divides sides by.
        window: Side of its training windows; what its config says if None. Where it does not, tiles are large.
    """
    noted = read_note(network, WINDOW_NOTE)
    side = window or (int(noted[0]) if noted else None)
    if side is None or not any(isinstance(module, LayerAct) for module in network.modules()):
        side = WIDE.side
    return of_side(side + -side % stride)


def check_tiles(tile: int, overlap: int, stride: int) -> None:
    """Refuse tiles that the network cannot take, or that overlap by more than half."""
    if tile <= 0 or tile % stride:
        raise UserError(f"A tile's side must be a multiple of {stride}, which this network divides by; got {tile}.")
    if not 0 <= overlap <= tile // 2:
        raise UserError(f"The overlap must lie between 0 and half a tile ({tile // 2}), got {overlap}.")


def count_tiles(height: int, width: int, tile: int, overlap: int, stride: int) -> int:
    """How many tiles `predict_bands` runs for an image of that size."""
    rows, columns = (_starts(length + -length % stride, tile, overlap) for length in (height, width))
    return len(rows) * len(columns)


def _starts(length: int, tile: int, overlap: int) -> list[int]:
    """Where tiles begin along one side; the last one ends with the image."""
    return [*range(0, length - tile, tile - overlap), length - tile] if length > tile else [0]


def _ramp(size: int, overlap: int) -> Tensor:
    """Weight of each pixel along a tile's side: 1 inside, falling linearly to both ends over the overlap."""
    rise = torch.arange(1, size + 1) / (overlap + 1)
    return torch.minimum(rise, rise.flip(0)).clamp(max=1)


@torch.inference_mode()
def predict_bands(
    model: nn.Module,
    image: Tensor,
    tile: int,
    overlap: int,
    stride: int,
    advance: Callable[[], object] | None = None,
    prepare: Callable[[Tensor], Tensor] = lambda window: window,
) -> Iterator[Tensor]:
    """Class probabilities of an image, computed tile by tile; where tiles overlap, one fades linearly into the other.

    A layer-level activation reads the statistics of its whole input, here of the tile. Where memory allows, a tile as
    large as the image gives what the network computes of the whole. Beside the image, memory is taken for a row of
    tiles.

    Args:
        model: Network with a dense output, in evaluation mode.
        image: ``(C, H, W)``.
        tile: Side of a tile in pixels. An image that fits into one is a single tile, padded to `stride`.
        overlap: Pixels that neighbours share.
        stride: The sides of what goes into the network are multiples of this.
        advance: Called after each tile.
        prepare: Makes the network's input, normalised float ``(1, C, h, w)`` on its device, from a part of the image,
            ``(1, C, h, w)``.

    Yields:
        Rows of the image from its top to its bottom, ``(K, h, W)``; one class gives the probability of the foreground,
        several theirs, which sum to 1.

    Raises:
        UserError: Tiles that do not fit the network, or a network whose output is not a map.
    """
    check_tiles(tile, overlap, stride)
    height, width = image.shape[-2:]
    rows, columns = padded_from(height, width, *(length + -length % stride for length in (height, width)))
    size = (min(tile, len(rows)), min(tile, len(columns)))
    weight = torch.outer(*(_ramp(side, overlap) for side in size))
    sums: Tensor | None = None
    weights = weight.new_zeros(0)
    tops, lefts = (_starts(len(side), tile, overlap) for side in (rows, columns))
    for top, following in zip(tops, [*tops[1:], tops[-1] + size[0]], strict=True):
        band = image[:, rows[top : top + size[0]]]
        for left in lefts:
            window = band[:, :, columns[left : left + size[1]]]
            probabilities = _probabilities(model, prepare(window[None]))
            if sums is None:
                weight = weight.to(probabilities.device)
                sums = weight.new_zeros(len(probabilities), size[0], len(columns))
                weights = weight.new_zeros(size[0], len(columns))
            sums[..., left : left + size[1]] += weight * probabilities
            weights[:, left : left + size[1]] += weight
            if advance is not None:
                advance()
        assert sums is not None  # there is at least one tile
        done = following - top  # rows that no tile below reaches
        yield (sums[:, :done] / weights[:done])[:, : height - top, :width]
        sums, weights = F.pad(sums[:, done:], (0, 0, 0, done)), F.pad(weights[done:], (0, 0, 0, done))


def _probabilities(model: nn.Module, images: Tensor) -> Tensor:
    logits = model(images)
    if not isinstance(logits, Tensor) or logits.dim() != 4:
        raise UserError(f"{type(model).__name__} gives no map of classes: it is not a segmentation network.")
    return (logits.float().sigmoid() if logits.shape[1] == 1 else logits.float().softmax(1))[0]
