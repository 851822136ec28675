"""Loss, counts and figures of segmentation into several classes.

The loss is cross-entropy and SMP's multiclass Dice, but of each sample, as that of one class is. Targets hold classes,
and 255 where nothing counts.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from ...data.mask_values import VOID

__all__ = ["class_counts", "class_figures", "cross_entropy_dice", "divergence"]


def cross_entropy_dice(logits: Tensor, targets: Tensor, smooth: float = 1.0) -> Tensor:
    """Cross-entropy plus Dice loss, of each sample.

    The Dice loss is the mean over the classes of ``1 - (2 Σ p t + smooth) / (Σ p + Σ t + smooth)`` over the sample's
    pixels, p the probabilities of the class; a class that the sample does not hold counts 0 (as in
    segmentation_models_pytorch).

    Args:
        logits: ``(N, K, H, W)``.
        targets: Classes or 255, ``(N, H, W)``.
        smooth: As in the loss of one class.

    Returns:
        ``(N,)``.
    """
    logits, valid = logits.float(), targets != VOID
    truth = torch.where(valid, targets, 0).long()
    entropy = F.cross_entropy(logits, truth, reduction="none")
    entropy = (entropy * valid).sum((1, 2)) / valid.sum((1, 2)).clamp(min=1)
    probabilities = logits.softmax(1) * valid[:, None]
    both = _by_class(probabilities.gather(1, truth[:, None])[:, 0], truth, logits.shape[1])
    pixels = _by_class(valid.long(), truth, logits.shape[1])
    dice = (2 * both + smooth) / (probabilities.sum((2, 3)) + pixels + smooth)
    return entropy + ((1 - dice) * (pixels > 0)).mean(1)


def class_counts(logits: Tensor, targets: Tensor) -> Tensor:
    """Pixels of each sample that are truly of a class, falsely taken for it, falsely not taken for it.

    Args:
        logits: ``(N, K, H, W)``.
        targets: Classes or 255, ``(N, H, W)``.

    Returns:
        int64 ``(N, 3 K)``, those of the first class before those of the second.
    """
    valid, found = targets != VOID, logits.argmax(1)
    truth = torch.where(valid, targets, 0).long()
    right, wrong = (valid & (found == truth)).long(), (valid & (found != truth)).long()
    kinds = ((right, truth), (wrong, found), (wrong, truth))
    counted = torch.stack([_by_class(each, of, logits.shape[1]) for each, of in kinds], 2)
    return counted.flatten(1)


def class_figures(counts: Sequence[float], names: Sequence[str]) -> dict[str, float]:
    """IoU and Dice coefficient in percent, means over the classes, and ``iou/NAME`` of each class.

    Args:
        counts: As `class_counts`, of all samples together.
        names: Class names.

    Returns:
        Without the classes that are neither there nor found, which take no part in the means either.
    """
    ious, dices = {}, []
    for index, name in enumerate(names):
        both, found, missed = counts[3 * index : 3 * index + 3]
        union = both + found + missed
        if union:
            ious[f"iou/{name}"] = 100 * both / union
            dices.append(200 * both / (union + both))
    if not ious:  # nothing but void
        return {"iou": 100.0, "dice": 100.0}
    return {"iou": sum(ious.values()) / len(ious), "dice": sum(dices) / len(dices), **ious}


def divergence(logits: Tensor, others: Tensor) -> Tensor:
    """Kullback-Leibler divergence of predictions ``(N, K, H, W)`` from another network's, a mean over pixels."""
    found, wanted = (each.float().log_softmax(1) for each in (logits, others))
    return F.kl_div(found, wanted, reduction="none", log_target=True).sum(1).mean()


def _by_class(values: Tensor, classes: Tensor, count: int) -> Tensor:
    """Sums of values ``(N, H, W)`` by the class of each pixel: ``(N, count)``."""
    return values.new_zeros(len(values), count).scatter_add(1, classes.flatten(1), values.flatten(1))
