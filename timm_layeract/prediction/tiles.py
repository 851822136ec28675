"""Segmenting an image of any size by overlapping tiles, blended so that no seam shows."""

from collections.abc import Callable
from itertools import product

import torch
from torch import Tensor, nn

from ..data.images import pad_to_multiple
from ..errors import UserError

__all__ = ["check_tiles", "count_tiles", "predict_probabilities"]


def check_tiles(tile: int, overlap: int, stride: int) -> None:
    """Refuse tiles that the network cannot take, or that overlap by more than half."""
    if tile <= 0 or tile % stride:
        raise UserError(f"A tile's side must be a multiple of {stride}, which this network divides by; got {tile}.")
    if not 0 <= overlap <= tile // 2:
        raise UserError(f"The overlap must lie between 0 and half a tile ({tile // 2}), got {overlap}.")


def count_tiles(height: int, width: int, tile: int, overlap: int, stride: int) -> int:
    """How many tiles `predict_probabilities` runs for an image of that size."""
    rows, columns = (_starts(length + -length % stride, tile, overlap) for length in (height, width))
    return len(rows) * len(columns)


def _starts(length: int, tile: int, overlap: int) -> list[int]:
    """Where tiles begin along one side; the last one ends with the image."""
    return [*range(0, length - tile, tile - overlap), length - tile] if length > tile else [0]


def _ramp(size: int, overlap: int) -> Tensor:
    """How much each pixel along a tile's side counts: 1 inside, falling linearly to both ends over the overlap."""
    rise = torch.arange(1, size + 1) / (overlap + 1)
    return torch.minimum(rise, rise.flip(0)).clamp(max=1)


@torch.inference_mode()
def predict_probabilities(
    model: nn.Module,
    image: Tensor,
    tile: int,
    overlap: int,
    stride: int,
    advance: Callable[[], object] | None = None,
) -> Tensor:
    """Class probabilities of an image, computed tile by tile; where tiles overlap, one fades linearly into the other.

    A layer-level activation reads the statistics of its whole input, here of the tile. Where memory allows, a tile as
    large as the image gives what the network computes of the whole.

    Args:
        model: Network with a dense output, in evaluation mode.
        image: Normalised, float ``(C, H, W)``, on the network's device.
        tile: Side of a tile in pixels. An image that fits into one is a single tile, padded to `stride`.
        overlap: Pixels that neighbours share.
        stride: The sides of what goes into the network are multiples of this.
        advance: Called after each tile.

    Returns:
        ``(K, H, W)``; one class gives the probability of the foreground, several theirs, which sum to 1.

    Raises:
        UserError: Tiles that do not fit the network, or a network whose output is not a map.
    """
    check_tiles(tile, overlap, stride)
    height, width = image.shape[-2:]
    padded = pad_to_multiple(image[None], stride)
    rows, columns = padded.shape[-2:]
    size = (min(tile, rows), min(tile, columns))
    weight = torch.outer(*(_ramp(side, overlap) for side in size)).to(image.device)
    weights = weight.new_zeros(rows, columns)
    total: Tensor | None = None
    for top, left in product(_starts(rows, tile, overlap), _starts(columns, tile, overlap)):
        window = (..., slice(top, top + size[0]), slice(left, left + size[1]))
        probabilities = _probabilities(model, padded[window])
        if total is None:
            total = weights.new_zeros(len(probabilities), rows, columns)
        total[window] += weight * probabilities
        weights[window] += weight
        if advance is not None:
            advance()
    assert total is not None  # there is at least one tile
    return (total / weights)[:, :height, :width]


def _probabilities(model: nn.Module, images: Tensor) -> Tensor:
    logits = model(images)
    if not isinstance(logits, Tensor) or logits.dim() != 4:
        raise UserError(f"{type(model).__name__} gives no map of classes: it is not a segmentation network.")
    return (logits.float().sigmoid() if logits.shape[1] == 1 else logits.float().softmax(1))[0]
