"""Pictures of masks for people: laid over the image, and beside the truth."""

from collections.abc import Iterable

import torch
from torch import Tensor
from torchvision.utils import draw_segmentation_masks, make_grid

from .images import pad_to

__all__ = ["compare_masks", "overlay"]

COLOURS = ["#ff2d55", "#34c759", "#0a84ff", "#ffd60a", "#bf5af2", "#64d2ff", "#ff9f0a", "#ac8e68"]


def overlay(image: Tensor, mask: Tensor) -> Tensor:
    """Lay a mask over its image, a colour for each class.

    Args:
        image: uint8 ``(3, H, W)``.
        mask: Class of each pixel, 0 for the background, ``(H, W)``.

    Returns:
        uint8 ``(3, H, W)``.
    """
    present = [int(label) for label in mask.unique() if label > 0]
    if not present:
        return image
    colours = [COLOURS[(label - 1) % len(COLOURS)] for label in present]
    return draw_segmentation_masks(image, torch.stack([mask == label for label in present]), 0.45, colours)


def compare_masks(samples: Iterable[tuple[Tensor, Tensor, Tensor]], side: int = 256) -> Tensor:
    """A row for each sample: image, truth and prediction, the upper left corner of `side` pixels.

    Args:
        samples: Images ``(3, H, W)`` with their true and predicted masks ``(H, W)``, all uint8.
        side: Of each picture.

    Returns:
        uint8 ``(3, H', W')``.
    """
    pictures = []
    for image, truth, found in samples:
        for picture in (image, overlay(image, truth), overlay(image, found)):
            height, width = (max(side, length) for length in picture.shape[1:])
            pictures.append(pad_to(picture[None], height, width)[0, :, :side, :side])
    return make_grid(torch.stack(pictures), nrow=3, padding=4, pad_value=255)
