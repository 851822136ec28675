"""What happens to a batch of uint8 images before the network: random crop and flip, normalisation.

Imports torch only. Vectorised over the batch: no Python work per image.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["normalize", "random_crop_flip"]


def random_crop_flip(images: Tensor, padding: int, flip: bool, generator: torch.Generator) -> Tensor:
    """Pad with black, crop a random window of the original size, mirror half of the images (Lee et al. 2015).

    Args:
        images: uint8 ``(N, C, H, W)`` on any device.
        padding: Pixels added on each side; 0 keeps the images where they are.
        flip: Mirror each image left to right with probability 1/2.
        generator: CPU generator of the random numbers, so that they do not depend on the device.

    Returns:
        uint8 ``(N, C, H, W)``.
    """
    count, channels, height, width = images.shape
    if padding == 0 and not flip:
        return images
    offsets = torch.randint(0, 2 * padding + 1, (2, count, 1), generator=generator)
    mirrored = torch.rand(count, 1, generator=generator) < (0.5 if flip else 0.0)
    rows = offsets[0] + torch.arange(height)
    columns = torch.arange(width).expand(count, -1)
    columns = offsets[1] + torch.where(mirrored, width - 1 - columns, columns)
    padded_width = width + 2 * padding
    flat = (rows[:, :, None] * padded_width + columns[:, None, :]).reshape(count, 1, -1).to(images.device)
    padded = F.pad(images, [padding] * 4).flatten(2)
    return padded.gather(2, flat.expand(-1, channels, -1)).reshape(images.shape)


def normalize(images: Tensor, mean: tuple[float, ...], std: tuple[float, ...]) -> Tensor:
    """Scale uint8 images to [0, 1] and standardise each channel.

    Returns:
        float32 ``(N, C, H, W)``.
    """
    scaled = images.float() / 255
    per_channel = (1, -1, 1, 1)
    return (scaled - scaled.new_tensor(mean).view(per_channel)) / scaled.new_tensor(std).view(per_channel)
