"""Figures under noise: what the quick set of `layeract robustness` is, for any task."""

from collections.abc import Callable, Mapping
from typing import Any

import torch

from .._utils.progress import progress_bar
from ..data.masks import MaskSplit, StoredMasks
from ..data.sources import ImageSplit
from ..data.splits import Split
from ..robustness.corruptions.constants import CATEGORIES, QUICK_CATEGORY, QUICK_IMAGES, SEVERITIES
from ..robustness.corruptions.generate import corrupt

__all__ = ["quick_set", "under_noise"]

Evaluate = Callable[[Any], float]


def quick_set(split: Split) -> ImageSplit | MaskSplit:
    """The first images of a split, in memory."""
    taken = split.take(torch.arange(min(len(split), QUICK_IMAGES)))
    if isinstance(taken, ImageSplit | MaskSplit):
        return taken
    if isinstance(taken, StoredMasks):
        pictures, masks = taken.__getitems__(range(len(taken)))
        return MaskSplit(tuple(pictures), tuple(masks), taken.classes)
    images, labels = taken.__getitems__(range(len(taken)))
    return ImageSplit(images, labels, taken.classes)


def under_noise(
    split: ImageSplit | MaskSplit, evaluate: Mapping[str, Evaluate], progress: bool
) -> dict[str, dict[str, list[float]]]:
    """What each of some networks makes of a split under each noise.

    Args:
        split: Uncorrupted.
        evaluate: Gives a figure of a split, by the name of the network.
        progress: Show a progress bar.

    Returns:
        corruption -> network -> figure at each severity.
    """
    names = CATEGORIES[QUICK_CATEGORY]
    found: dict[str, dict[str, list[float]]] = {name: {network: [] for network in evaluate} for name in names}
    with progress_bar(progress) as bar:
        task = bar.add_task("noise", total=len(names) * len(SEVERITIES))
        for name in names:
            for severity in SEVERITIES:
                noisy = _corrupted(split, name, severity)
                for network, figure in evaluate.items():
                    found[name][network].append(figure(noisy))
                bar.advance(task)
    return found


def _corrupted(split: ImageSplit | MaskSplit, name: str, severity: int) -> ImageSplit | MaskSplit:
    if isinstance(split, ImageSplit):
        return ImageSplit(corrupt(split.images, name, severity), split.labels, split.classes)
    images = [corrupt(image[None], name, severity, [index])[0] for index, image in enumerate(split.images)]
    return MaskSplit(tuple(images), split.masks, split.classes)
