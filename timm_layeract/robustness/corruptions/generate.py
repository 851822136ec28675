"""Making corrupted images: one call corrupts a batch, or a split, the same whatever the order.

Every image has random numbers of its own, seeded by (seed, corruption, severity, index of the image), so that neither
order nor batches nor worker processes matter. Computed in float64, with a guard for values that are whole numbers but
for rounding, so that another machine's last bit does not show.
"""

import zlib
from collections.abc import Sequence
from importlib.metadata import version

import cv2
import numpy as np
import PIL
import scipy
import torch
from torch import Tensor

from ...data.sources import ImageSplit
from ...errors import UserError
from . import blur, digital, noise, weather
from .constants import CORRUPTIONS, SIMPLE, benchmark_of, strength

__all__ = ["VERSIONS", "RegeneratedSets", "corrupt"]

_ALGORITHMS = {name: getattr(module, name) for module in (noise, blur, weather, digital) for name in module.__all__}
# Other versions may round or draw otherwise.
VERSIONS = {"timm-layeract": version("timm-layeract")} | {
    name: module.__version__ for name, module in {"numpy": np, "scipy": scipy, "opencv": cv2, "pillow": PIL}.items()
}
# Pixels worked on at once: few enough for the caches, many enough for the calls.
_CHUNK = 2**18
# As the original, values are cut down to 8 bits, not rounded; what is whole but for rounding stays whole.
_WHOLE = 2.0**-20


def corrupt(images: Tensor, name: str, severity: int, indices: Sequence[int] | None = None, seed: int = 0) -> Tensor:
    """Corrupt images.

    The strengths follow from the size, `constants.benchmark_of`.

    Args:
        images: uint8 ``(N, 3, H, W)``.
        name: One of `constants.CORRUPTIONS` or `constants.SIMPLE`.
        severity: 1 to 5.
        indices: The images' numbers in their data set, which seed them; 0 to N-1 if None.
        seed: Another seed, another set.

    Returns:
        uint8 ``(N, 3, H, W)``.

    Raises:
        UserError: No such corruption or severity; images of another type or shape, or smaller than 8 pixels.
    """
    if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[1] != 3 or min(images.shape[2:]) < 8:
        raise UserError(
            f"Corruptions take uint8 images (N, 3, H, W) of at least 8x8, got {images.dtype} {tuple(images.shape)}."
        )
    numbers = range(len(images)) if indices is None else indices
    if len(numbers) != len(images):
        raise UserError(f"{len(images)} images were given with {len(numbers)} indices; give one for each.")
    height, width = images.shape[2:]
    value = strength(name, severity, benchmark_of(height, width))
    algorithm = _ALGORITHMS[SIMPLE[name][0] if name in SIMPLE else name]
    corrupted = torch.empty_like(images)
    step = max(1, _CHUNK // (height * width))
    for start in range(0, len(images), step):
        chunk = images[start : start + step].permute(0, 2, 3, 1).numpy() / 255.0
        key = (seed, zlib.crc32(name.encode()), severity)
        rngs = [np.random.default_rng((*key, number)) for number in numbers[start : start + step]]
        result = np.floor(255 * np.clip(algorithm(chunk, value, rngs), 0, 1) + _WHOLE).astype(np.uint8)
        corrupted[start : start + step] = torch.from_numpy(result).permute(0, 3, 1, 2)
    return corrupted


class RegeneratedSets:
    """Corrupted sets of a clean split, made when they are asked for.

    Args:
        clean: What is corrupted; the labels stay.
        seed: Another seed, other sets.
    """

    origin = "regenerated"
    names = (*CORRUPTIONS, *SIMPLE)

    def __init__(self, clean: ImageSplit, seed: int = 0) -> None:
        self.clean, self.seed = clean, seed
        self._identity = clean.sha256()

    def recipe(self, name: str, severity: int) -> str:
        """What decides the set's content, for recognising it before it is made."""
        return f"{name} {severity} seed {self.seed} of {self._identity} with {VERSIONS}"

    def load(self, name: str, severity: int) -> ImageSplit:
        """One corruption at one severity.

        Raises:
            UserError: No such corruption or severity.
        """
        images = corrupt(self.clean.images, name, severity, seed=self.seed)
        return ImageSplit(images, self.clean.labels, self.clean.classes)

    def sample(self, name: str, severity: int, index: int) -> Tensor:
        """One image of a set: uint8 ``(3, H, W)``."""
        return corrupt(self.clean.images[index : index + 1], name, severity, [index], self.seed)[0]
