"""Training data that stays on the device: batches are cut there, from uint8 images of equal size.

Nothing is copied a step but the numbers of the rows and the random numbers of the augmentation, which are those of any
other road: images, order and augmentation are the same, bit for bit, whether the data lies here or there.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from ..data.augment import to_device
from ..data.sources import ImageSplit
from ..errors import UserError

__all__ = ["DeviceData", "on_device"]

MEMORY_SHARE = 0.4  # of the free memory, so that the network has the rest


class DeviceData:
    """A split's images and labels on a device.

    Args:
        split: What to copy there.
        device: Where to.
    """

    def __init__(self, split: ImageSplit, device: torch.device) -> None:
        self.images, self.labels = split.images.to(device), split.labels.to(device)

    def batches(self, rows: list[list[int]]) -> Iterator[tuple[Tensor, Tensor]]:
        """The images and labels of each list of rows."""
        for each in rows:
            at = to_device(torch.tensor(each), self.images.device)
            yield self.images[at], self.labels[at]


def on_device(split: Any, wanted: str, device: torch.device) -> DeviceData | None:
    """The split's data on the device, None where it is to stay where it is.

    Args:
        split: Training data.
        wanted: ``true``, ``false`` or ``auto``: on a GPU, if it is of images in memory that leave room for the network.
        device: Where the network is.

    Raises:
        UserError: It is wanted there and cannot be.
    """
    if wanted == "false" or (wanted == "auto" and device.type != "cuda"):
        return None
    if not isinstance(split, ImageSplit):
        if wanted == "auto":
            return None
        raise UserError(
            "data_on_device 'true' is for images of equal size that fit into memory; give 'auto', or smaller images."
        )
    size = split.images.numel() + split.labels.numel() * split.labels.element_size()
    room = MEMORY_SHARE * torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else float("inf")
    if size <= room:
        return DeviceData(split, device)
    if wanted == "auto":
        return None
    raise UserError(
        f"data_on_device 'true': the training images take {size / 1e9:.1f} GB, and the device has {room / 1e9:.1f} GB "
        f"for them; give 'auto'."
    )
