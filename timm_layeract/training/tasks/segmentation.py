"""Binary segmentation as a task: random windows to train on, whole images to evaluate, BCE-Dice, IoU.

The loss is SMP's BCE and Dice, but of each sample: SMP's Dice is of a whole batch, so that its mean would depend on how
the batch is shared out, and leaves samples without foreground out. Targets hold 0 and 1, and `IGNORED` where an image
was padded: there nothing counts.
"""

from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from timm.data import resolve_model_data_config
from torch import Tensor, nn
from torchvision.transforms.functional import to_pil_image

from ...data.augment import SampleRandom, normalize
from ...data.augment_masks import NUMBERS, TURN, random_windows
from ...data.columns import Columns
from ...data.images import pad_to_multiple
from ...data.masks import MaskSplit, load_mask_splits
from ...data.pictures import compare_masks
from ...errors import UserError
from ..recipe import TEXT_KEYS, Recipe

__all__ = ["IGNORED", "Segmentation", "bce_dice", "overlap_counts"]

IGNORED = 255
EXAMPLES = 4  # samples in the picture of a run


def bce_dice(logits: Tensor, targets: Tensor, smooth: float = 1.0) -> Tensor:
    """Binary cross-entropy plus Dice loss (Milletari et al. 2016), of each sample.

    The Dice loss is ``1 - (2 Σ p t + smooth) / (Σ p + Σ t + smooth)`` over the sample's pixels, p the probabilities.

    Args:
        logits: ``(N, 1, H, W)``.
        targets: 0, 1 or `IGNORED`, ``(N, H, W)``.
        smooth: Keeps an image without foreground from dividing 0 by 0.

    Returns:
        ``(N,)``.
    """
    logits, valid = logits[:, 0].float(), targets != IGNORED
    truth = (targets == 1).float()
    entropy = F.binary_cross_entropy_with_logits(logits, truth, reduction="none")
    entropy = (entropy * valid).sum((1, 2)) / valid.sum((1, 2))
    probabilities = logits.sigmoid() * valid
    both, each = (probabilities * truth).sum((1, 2)), (probabilities + truth).sum((1, 2))
    return entropy + 1 - (2 * both + smooth) / (each + smooth)


def overlap_counts(logits: Tensor, targets: Tensor, threshold: float = 0.5) -> Tensor:
    """Pixels of each sample that are truly foreground, falsely foreground, falsely background.

    Args:
        logits: ``(N, 1, H, W)``.
        targets: 0, 1 or `IGNORED`, ``(N, H, W)``.
        threshold: Probability from which a pixel is foreground.

    Returns:
        float64 ``(N, 3)``.
    """
    found, truth = logits[:, 0].float().sigmoid() >= threshold, targets == 1
    counted = (found & truth, found & (targets == 0), ~found & truth)
    return _exact(torch.stack([each.sum((1, 2)) for each in counted], 1))


class Segmentation:
    """BCE-Dice on images with masks; IoU and Dice coefficient in percent, over the pixels of all images together.

    Args:
        model: timm model with a dense output of one class; its `pretrained_cfg` gives mean and deviation, its
            `feature_info` what the sides of whole images are padded to multiples of.
        recipe: `image_size` is that of the windows it is trained on; `flip` turns and mirrors them.

    Raises:
        UserError: A model without a dense output of one class, windows that are no squares, recipe keys of
            classification.
    """

    monitor = "iou"
    one_by_one = True
    samples = "images"

    def __init__(self, model: nn.Module, recipe: Recipe, *_: MaskSplit) -> None:
        data_config = resolve_model_data_config(model)
        self.mean, self.std = data_config["mean"], data_config["std"]
        self.input_size: tuple[int, int] = recipe.image_size or tuple(data_config["input_size"][1:])
        self.extent = f"at {'x'.join(map(str, self.input_size))}"
        self.flip = recipe.flip
        if self.input_size[0] != self.input_size[1]:
            raise UserError(f"Recipe {recipe.name}: image_size of segmentation is a square, not {self.input_size}.")
        classification = (
            "label_smoothing",
            "random_erasing",
            "progressive_sizes",
            "ten_crop",
            "padding",
            "adversarial",
        )
        recipe.refuse("segmentation", (*classification, *TEXT_KEYS))
        _check_dense(model)
        self.stride: int = model.feature_info[-1]["reduction"]  # type: ignore[index,assignment]

    @staticmethod
    def splits(
        source: str, recipe: Recipe, input_size: tuple[int, int], progress: bool, labelled: bool = True
    ) -> dict[str, MaskSplit]:
        """The data set, at the sizes that its images have."""
        return load_mask_splits(source, progress, labelled, Columns(recipe.image_column, recipe.label_column))

    @staticmethod
    def network_args(split: MaskSplit) -> dict[str, Any]:
        """None."""
        return {}

    def inputs(self, batch: tuple[list[Tensor], list[Tensor]], random: SampleRandom | None) -> tuple[Tensor, Tensor]:
        """Windows where `random` is given; else one whole image, mirrored to the stride."""
        images, masks = batch
        if random is not None:
            numbers = random.uniform(NUMBERS)
            if not self.flip:
                numbers[:, TURN] = 0
            windows, targets = random_windows(images, masks, self.input_size[0], numbers)
            return normalize(windows, self.mean, self.std), targets
        image, target = normalize(torch.stack(images), self.mean, self.std), torch.stack(masks)
        padded = pad_to_multiple(image, self.stride)
        rows, columns = (after - before for after, before in zip(padded.shape[2:], image.shape[2:], strict=True))
        return padded, F.pad(target, [0, columns, 0, rows], value=IGNORED)

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Mean over samples, and over the outputs of deep supervision (Zhou et al. 2018, equation 3)."""
        return torch.stack([bce_dice(output, targets).mean() for output in _each(outputs)]).mean()

    def match(self, outputs: Tensor, others: Tensor) -> Tensor:
        """Binary cross-entropy with the other network's probabilities, of the deepest output."""
        deepest, wanted = _each(outputs)[-1].float(), _each(others)[-1].float().sigmoid()
        return F.binary_cross_entropy_with_logits(deepest, wanted)

    def decide(self, outputs: Tensor, targets: Tensor) -> Tensor:
        found = (_each(outputs)[-1][:, 0] >= 0).to(targets.dtype)
        return torch.where(targets == IGNORED, targets, found)

    def predict(self, network: nn.Module, inputs: Tensor) -> Tensor:
        return network(inputs).float()

    def measure(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Loss and overlap counts, of the deepest output where there are several."""
        deepest = _each(outputs)[-1]
        return torch.cat([_exact(bce_dice(deepest, targets)[:, None]), overlap_counts(deepest, targets)], 1)

    def summarise(self, means: list[float]) -> dict[str, float]:
        loss, both, found, missed = means
        union = both + found + missed
        # of images without foreground, in which none was found, the masks are the same
        iou, dice = (both / union, 2 * both / (union + both)) if union else (1.0, 1.0)
        return {"loss": loss, "iou": 100 * iou, "dice": 100 * dice}

    def illustrate(self, network: nn.Module, data: MaskSplit, path: Path) -> None:
        """Save a picture: image, truth and prediction of the first samples."""
        samples = []
        for image, mask in zip(data.images[:EXAMPLES], data.masks[:EXAMPLES], strict=True):
            device = next(network.parameters()).device
            inputs, _ = self.inputs(([image.to(device)], [mask.to(device)]), None)
            with torch.no_grad():
                found = self.predict(network.eval(), inputs)[0, 0].cpu() >= 0
            samples.append((image, mask, found[: mask.shape[0], : mask.shape[1]].to(torch.uint8)))
        to_pil_image(compare_masks(samples)).save(path)

    def save(self, folder: Path) -> None:
        """Nothing."""


def _exact(values: Tensor) -> Tensor:
    """In float64: where they are on CUDA, so that nobody waits, else on the CPU, as Apple's GPUs have none."""
    return (values if values.is_cuda else values.cpu()).double()


def _each(outputs: Tensor) -> list[Tensor]:
    return list(outputs) if outputs.dim() == 5 else [outputs]


def _check_dense(model: nn.Module) -> None:
    training, parameter = model.training, next(model.parameters())
    with torch.no_grad():
        output = model.eval()(parameter.new_zeros(1, int(model.in_chans), 64, 64))  # type: ignore[arg-type]
    model.train(training)
    if tuple(output.shape) != (1, 1, 64, 64):
        name = model.pretrained_cfg["architecture"]  # type: ignore[index]
        raise UserError(
            f"{name} gives {tuple(output.shape[1:])} for an image of 64x64 pixels, not one map of that size; choose a "
            f"segmentation network such as unet_lasilu (timm.list_models('unet*')), with one class."
        )
