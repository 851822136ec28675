"""What happens to images and their masks together before the network: random window, zoom, turn, light."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as V

from .images import pad_to

__all__ = ["NUMBERS", "TURN", "random_windows", "resize_pairs"]

NUMBERS = 7  # random numbers that an image takes
TURN = 3  # which of them decides how it is turned and mirrored; 0 leaves it as it is
ZOOM = 1.25  # at most, in or out
LIGHT = 0.2  # brightness, contrast and saturation change by this share at most


def random_windows(
    images: Sequence[Tensor], masks: Sequence[Tensor], side: int, numbers: Tensor
) -> tuple[Tensor, Tensor]:
    """Cut a random square out of each image and its mask, zoomed, turned and mirrored alike, the image in other light.

    Args:
        images: uint8, each ``(3, H, W)`` of any size; where one is smaller than its window, edges are mirrored.
        masks: uint8, each ``(H, W)``.
        side: Side of the results, in pixels.
        numbers: In [0, 1), what is random: ``(N, NUMBERS)``.

    Returns:
        uint8 ``(N, 3, side, side)`` and ``(N, side, side)``; masks keep their values.
    """
    pairs = [_window(*each) for each in zip(images, masks, [side] * len(images), numbers.tolist(), strict=True)]
    return torch.stack([image for image, _ in pairs]), torch.stack([mask for _, mask in pairs])


def resize_pairs(images: Sequence[Tensor], masks: Sequence[Tensor], side: int) -> tuple[list[Tensor], list[Tensor]]:
    """Each image and its mask as a square of that side, whatever its shape; arguments as `random_windows`."""
    size = [side, side]
    return (
        [V.resize(image, size, InterpolationMode.BILINEAR, antialias=True) for image in images],
        [V.resize(mask[None], size, InterpolationMode.NEAREST_EXACT)[0] for mask in masks],
    )


def _window(image: Tensor, mask: Tensor, side: int, numbers: list[float]) -> tuple[Tensor, Tensor]:
    zoom, down, across, turn, *light = numbers
    window = round(side * math.exp((2 * zoom - 1) * math.log(ZOOM)))
    both = torch.cat([image, mask[None]])[None]
    both = pad_to(both, max(window, both.shape[-2]), max(window, both.shape[-1]))[0]
    top, left = (int(n * (length - window + 1)) for n, length in zip((down, across), both.shape[1:], strict=True))
    both = both[:, top : top + window, left : left + window]
    turns, mirrored = divmod(int(turn * 8), 2)
    both = torch.rot90(both.flip(-1) if mirrored else both, turns, (-2, -1))
    image = V.resize(both[:3], [side, side], InterpolationMode.BILINEAR, antialias=True)
    mask = V.resize(both[3:], [side, side], InterpolationMode.NEAREST_EXACT)[0]
    for change, number in zip((V.adjust_brightness, V.adjust_contrast, V.adjust_saturation), light, strict=True):
        image = change(image, 1 + LIGHT * (2 * number - 1))
    return image, mask
