"""Predictions of a network over a split, how many are right, and how far its confidence is to be believed."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torchmetrics.functional.classification import multiclass_calibration_error

from ..compat.torch import accelerator
from ..data.sources import ImageSplit
from ..errors import UserError
from ..networks import Network

__all__ = ["Score", "class_probabilities", "default_device", "score"]

BATCH = 125  # images at once: few enough for a processor's caches
BINS = 15  # of confidence, as Guo et al. (2017) take them


@dataclass(frozen=True)
class Score:
    """What a network makes of a set.

    Attributes:
        correct: Number of images that it classifies as labelled.
        calibration_error: Expected calibration error (Guo et al. 2017, equation 3): the mean distance, in percent,
            between the confidence in the predicted class and the accuracy, over 15 equal bins of confidence.
    """

    correct: int
    calibration_error: float


def default_device() -> torch.device:
    """The accelerator if there is one, else the CPU."""
    return accelerator.current_accelerator(check_available=True) or torch.device("cpu")


@torch.inference_mode()
def class_probabilities(network: Network, images: Tensor, classes: int, bf16: bool = False) -> Tensor:
    """Probability of each class for each image.

    Args:
        network: Gives logits ``(N, classes)``.
        images: uint8 ``(N, 3, H, W)``.
        classes: Number that the data has.
        bf16: Compute under bfloat16 autocast.

    Returns:
        float32 ``(N, classes)`` on the CPU.

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
        found.append(logits.float().softmax(1).cpu())
    return torch.cat(found)


def score(network: Network, split: ImageSplit, bf16: bool = False) -> Score:
    """How many images of a split a network classifies as labelled, and its calibration error there."""
    classes = len(split.classes)
    probabilities = class_probabilities(network, split.images, classes, bf16)
    error = multiclass_calibration_error(probabilities, split.labels, classes, n_bins=BINS, norm="l1")
    return Score(int((probabilities.argmax(1) == split.labels).sum()), 100 * float(error))
