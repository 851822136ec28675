"""What happens to a batch of uint8 images before the network: random crop, flip and erasing, normalisation.

Vectorised over the batch: no Python work per image. Random numbers come from a `SampleRandom`, which gives an image the
same ones however its batch is shared out among processes and parts.
"""

import math
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.transforms.v2.functional import rgb_to_grayscale

__all__ = ["SampleRandom", "normalize", "random_crop_flip", "random_erase", "to_device"]


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """`tensor` on a device; copied to a GPU asynchronously."""
    if device.type != "cuda" or tensor.device == device:
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)


class SampleRandom:
    """Random numbers for each image of a batch of which this process may hold only some.

    Args:
        seed: Seed of the batch.
        images: Images in the whole batch.
        rows: Which of them are held here; all if None.
    """

    def __init__(self, seed: int, images: int, rows: slice | None = None) -> None:
        self.seed, self.images, self.rows = seed, images, rows or slice(None)
        # On the CPU, so that the numbers do not depend on the device.
        self._generator = torch.Generator().manual_seed(seed)

    def uniform(self, *shape: int) -> Tensor:
        """Numbers in [0, 1), `shape` of them for each image held: float32 ``(n, *shape)``."""
        return torch.rand(self.images, *shape, generator=self._generator)[self.rows]


def random_crop_flip(images: Tensor, padding: int, flip: bool, random: SampleRandom) -> Tensor:
    """Pad with black, crop a random window of the original size, mirror half of the images (Lee et al. 2015).

    Args:
        images: uint8 ``(N, C, H, W)`` on any device.
        padding: Pixels added on each side; 0 keeps the images where they are.
        flip: Mirror each image left to right with probability 1/2.
        random: Random numbers for the N images.

    Returns:
        uint8 ``(N, C, H, W)``.
    """
    _, channels, height, width = images.shape
    if padding == 0 and not flip:
        return images
    device = images.device
    across, down, mirror = to_device(random.uniform(3), device).T.unsqueeze(-1)
    rows = (down * (2 * padding + 1)).long() + torch.arange(height, device=device)
    columns = torch.arange(width, device=device).expand(len(images), -1)
    columns = torch.where(mirror < (0.5 if flip else 0.0), width - 1 - columns, columns)
    columns = columns + (across * (2 * padding + 1)).long()
    padded_width = width + 2 * padding
    flat = (rows[:, :, None] * padded_width + columns[:, None, :]).reshape(len(images), 1, -1)
    padded = F.pad(images, [padding] * 4).flatten(2)
    return padded.gather(2, flat.expand(-1, channels, -1)).reshape(images.shape)


ERASE_ATTEMPTS = 10
ERASE_AREA = (0.02, 1 / 3)  # of the image
ERASE_ASPECT = (0.3, 1 / 0.3)  # height / width


def random_erase(images: Tensor, probability: float, random: SampleRandom) -> Tensor:
    """Set a random rectangle of some images to 0, the mean colour of normalised ones (Zhong et al. 2017).

    Area and aspect are drawn as `timm.data.random_erasing.RandomErasing` draws them, all images at once.

    Args:
        images: Normalised float ``(N, C, H, W)`` on any device.
        probability: Probability of a rectangle in an image; 0 leaves all images as they are.
        random: Random numbers for the N images.

    Returns:
        Float ``(N, C, H, W)``.
    """
    if probability == 0:
        return images
    height, width = images.shape[2:]
    chosen, top, left = random.uniform(3).T
    area, aspect = random.uniform(2, ERASE_ATTEMPTS).unbind(1)
    area = (ERASE_AREA[0] + area * (ERASE_AREA[1] - ERASE_AREA[0])) * height * width
    low, high = (math.log(limit) for limit in ERASE_ASPECT)
    aspect = (low + aspect * (high - low)).exp()
    tall, wide = (area * aspect).sqrt().round(), (area / aspect).sqrt().round()
    fits = (tall < height) & (wide < width)
    first = fits.float().argmax(1, keepdim=True)  # the first attempt that fits; none does once in a million
    erased = (chosen < probability) & fits.any(1)
    tall, wide = tall.gather(1, first), wide.gather(1, first)
    top, left = (top[:, None] * (height - tall + 1)).floor(), (left[:, None] * (width - wide + 1)).floor()
    # Worked out on the CPU, whose roundings are the same everywhere.
    drawn = torch.stack([top, tall, left, wide, erased[:, None].to(top.dtype)])
    top, tall, left, wide, chosen = to_device(drawn, images.device)
    y, x = (torch.arange(side, device=images.device) for side in (height, width))
    rows, columns = (y >= top) & (y < top + tall), (x >= left) & (x < left + wide)
    blank = (chosen > 0)[:, :, None] & rows[:, :, None] & columns[:, None, :]
    return images.masked_fill(blank[:, None], 0)


def normalize(images: Tensor, mean: tuple[float, ...], std: tuple[float, ...]) -> Tensor:
    """Scale uint8 images to [0, 1] and standardise each channel.

    Args:
        images: uint8 ``(N, C, H, W)``.
        mean: Mean of each channel; one alone asks for gray images, and colours are turned to luminance.
        std: Their standard deviations.

    Returns:
        float32 ``(N, len(mean), H, W)``.
    """
    scaled = images.float() / 255
    if len(mean) == 1 and images.shape[1] == 3:
        scaled = rgb_to_grayscale(scaled)
    return (scaled - _per_channel(tuple(mean), images.device)) / _per_channel(tuple(std), images.device)


@lru_cache(64)
def _per_channel(values: tuple[float, ...], device: torch.device) -> Tensor:
    """Kept, as a copy to a GPU waits for it."""
    with torch.inference_mode(False):
        return torch.tensor(values, device=device).view(1, -1, 1, 1)
