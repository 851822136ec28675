"""What a network sees of an image file: timm's own transforms, to uint8, with random numbers of each image's own."""

import random
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from timm.data import create_transform
from torch import Tensor

from .splits import Drawn

__all__ = ["View", "seeded"]

Transform = Callable[[Image.Image], Tensor]


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Random numbers of Python, NumPy and torch's CPU from a seed while the block runs, as before it afterwards."""
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.default_generator.manual_seed(seed)  # torch.manual_seed asks the GPU too
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
        torch.set_rng_state(states[2])


@dataclass(frozen=True)
class View:
    """How the images of a split become a network's.

    Attributes:
        size: (H, W) of what is evaluated.
        evaluation: From an RGB image to uint8 ``(3, H, W)``.
        training: The same for rows with a seed (`Drawn`), where that is anything else.
    """

    size: tuple[int, int]
    evaluation: Transform
    training: Transform | None = None

    @classmethod
    def of(cls, settings: Mapping[str, Any], training: Mapping[str, Any] | None = None) -> "View":
        """The view defined by arguments of `timm.data.create_transform`."""
        height, width = settings["input_size"][-2:]
        transform = None if training is None else create_transform(**training, normalize=False)
        return cls((height, width), create_transform(**settings, normalize=False), transform)

    @classmethod
    def whole(cls, size: tuple[int, int]) -> "View":
        """Each image at (H, W): its shorter side resized, its longer side cropped at the centre."""
        return cls.of({"input_size": (3, *size), "crop_pct": 1.0, "interpolation": "bilinear"})

    def __call__(self, picture: Image.Image, row: int) -> Tensor:
        """An RGB image of that row."""
        if self.training is None or not isinstance(row, Drawn):
            return self.evaluation(picture)
        with seeded(row.seed):
            return self.training(picture)
