"""Predictions of a network over a split. Imports torch, `data`, `networks`."""

import torch
from torch import Tensor

from ..data.sources import ImageSplit
from ..errors import UserError
from .networks import Network

__all__ = ["count_correct", "default_device", "predict"]

BATCH = 125  # images at once: few enough for a processor's caches


def default_device() -> torch.device:
    """The accelerator if there is one, else the CPU."""
    return torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")


@torch.inference_mode()
def predict(network: Network, images: Tensor, classes: int, bf16: bool = False) -> Tensor:
    """Predicted class of each image.

    Args:
        network: Gives logits ``(N, classes)``.
        images: uint8 ``(N, 3, H, W)``.
        classes: Number that the data has.
        bf16: Compute under bfloat16 autocast.

    Returns:
        int64 ``(N,)`` on the CPU.

    Raises:
        UserError: The network has another number of outputs.
    """
    device = next(iter(network.module.parameters()), torch.empty(0)).device
    found = []
    for batch in images.split(BATCH):
        inputs = (batch.to(device).float() / 255).contiguous(memory_format=torch.channels_last)
        with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
            logits = network.module(inputs)
        if logits.ndim != 2 or logits.shape[1] != classes:
            raise UserError(
                f"{network.source} gives {tuple(logits.shape[1:])} outputs; the data has {classes} classes."
            )
        found.append(logits.argmax(1).cpu())
    return torch.cat(found)


def count_correct(network: Network, split: ImageSplit, bf16: bool = False) -> int:
    """Number of images that the network classifies as labelled."""
    return int((predict(network, split.images, len(split.classes), bf16) == split.labels).sum())
