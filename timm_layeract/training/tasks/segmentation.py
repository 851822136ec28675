"""Segmentation as a task: random windows to train on, images tile by tile to evaluate, BCE-Dice, IoU.

The loss is SMP's BCE and Dice, but of each sample: SMP's Dice is of a whole batch, so that its mean would depend on how
the batch is shared out, and leaves samples without foreground out. Targets hold 0 and 1, and `IGNORED` where an image
was padded: there nothing counts. Of several classes they hold each pixel's class, see `many_classes`.
"""

from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from timm.data import resolve_model_data_config
from torch import Tensor, nn
from torchvision.transforms.functional import InterpolationMode, resize

from ..._utils.timm_types import PretrainedConfig
from ...data.augment import SampleRandom, normalize
from ...data.augment_masks import NUMBERS, TURN, random_windows, resize_pairs
from ...data.classes import check_channels
from ...data.columns import Columns
from ...data.images import pad_to_multiple
from ...data.mask_values import VOID
from ...data.masks import Masks, load_mask_splits
from ...data.pictures import compare_masks, save_png
from ...data.splits import Split
from ...data.tiles import check_tiles, of_side, predict_bands, tiles_for
from ...errors import UserError
from ..recipe import Recipe
from .many_classes import class_counts, class_figures, cross_entropy_dice, divergence

__all__ = ["IGNORED", "Segmentation", "bce_dice", "overlap_counts"]

IGNORED = VOID
LEAST = 1e-6  # probability, so that its logit is a number
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

    Of several classes, cross-entropy and Dice; IoU of each class, and means over them.

    Args:
        model: timm model with a dense output, a map for each class, or one for the foreground; its `pretrained_cfg`
            gives mean and deviation, its `feature_info` what the sides of whole images are padded to multiples of.
        recipe: `image_size` is that of the windows it is trained on; `flip` turns and mirrors them; `tile` is that of
            the parts in which it is evaluated. With `crop_mode` squash it sees whole images, resized to `image_size`.
        train: Whose classes the model's maps are.

    Raises:
        UserError: A model without a dense output, or of other classes; windows that are no squares, or smaller ones of
            sides that the network does not take.
    """

    monitor = "iou"
    one_by_one = True
    samples = "images"

    def __init__(self, model: nn.Module, recipe: Recipe, train: Masks | None = None) -> None:
        data_config = resolve_model_data_config(model)
        self.mean, self.std = data_config["mean"], data_config["std"]
        self.input_size: tuple[int, int] = recipe.image_size or tuple(data_config["input_size"][1:])
        self.extent = f"at {'x'.join(map(str, self.input_size))}"
        self.flip, self.tile, self.resized = recipe.flip, recipe.tile, recipe.crop_mode == "squash"
        if recipe.crop_mode not in (None, "squash"):
            raise UserError(f"Recipe {recipe.name}: crop_mode of segmentation is squash, or left out for windows.")
        if self.input_size[0] != self.input_size[1]:
            raise UserError(f"Recipe {recipe.name}: image_size of segmentation is a square, not {self.input_size}.")
        check_channels(model)
        _check_dense(model, self.input_size[0])
        self.names = _class_names(model, train.classes if train else ())
        self.stride: int = model.feature_info[-1]["reduction"]  # type: ignore[index,assignment]
        if self.tile:
            check_tiles(*of_side(self.tile), self.stride)
        odd = [side for _, side in recipe.progressive_sizes if side % self.stride]
        if odd:
            raise UserError(
                f"Recipe {recipe.name}: progressive_sizes of this network are multiples of {self.stride}, not {odd[0]}."
            )

    @staticmethod
    def splits(
        source: str, recipe: Recipe, config: PretrainedConfig, progress: bool, labelled: bool = True
    ) -> dict[str, Masks]:
        """The data set, at the sizes that its images have."""
        columns = Columns(recipe.image_column, recipe.label_column)
        return load_mask_splits(source, progress, labelled, columns, recipe.masks, recipe.class_names)

    @staticmethod
    def network_args(train: Masks) -> dict[str, int]:
        """None."""
        return {}

    def inputs(
        self, batch: tuple[list[Tensor], ...], random: SampleRandom | None, side: int | None = None
    ) -> tuple[Tensor, Tensor]:
        """Random windows, resized to `side`, if `random` is given; else one whole image, mirrored to the stride."""
        images, masks = batch
        if self.resized:
            images, masks = resize_pairs(images, masks, self.input_size[0])
        if random is not None:
            numbers = random.uniform(NUMBERS)
            if not self.flip:
                numbers[:, TURN] = 0
            windows, targets = random_windows(images, masks, self.input_size[0], numbers)
            if side is not None:
                windows, targets = resize(windows, side), resize(targets, side, InterpolationMode.NEAREST_EXACT)
            return normalize(windows, self.mean, self.std), targets
        image, target = normalize(torch.stack(images), self.mean, self.std), torch.stack(masks)
        padded = pad_to_multiple(image, self.stride)
        rows, columns = (after - before for after, before in zip(padded.shape[2:], image.shape[2:], strict=True))
        return padded, F.pad(target, [0, columns, 0, rows], value=IGNORED)

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Mean over samples, and over the outputs of deep supervision (Zhou et al. 2018, equation 3)."""
        return torch.stack([_losses(output, targets).mean() for output in _each(outputs)]).mean()

    def match(self, outputs: Tensor, others: Tensor) -> Tensor:
        """Cross-entropy with the other network's probabilities, of the deepest output; of classes, divergence."""
        deepest, wanted = _each(outputs)[-1].float(), _each(others)[-1].float()
        if deepest.shape[1] > 1:
            return divergence(deepest, wanted)
        return F.binary_cross_entropy_with_logits(deepest, wanted.sigmoid())

    def decide(self, outputs: Tensor, targets: Tensor) -> Tensor:
        found = _found(_each(outputs)[-1]).to(targets.dtype)
        return torch.where(targets == IGNORED, targets, found)

    def predict(self, network: nn.Module, inputs: Tensor) -> Tensor:
        """Logits of an image, seen as `layeract predict` sees it: in tiles of the size that it is trained on."""
        tiles = tiles_for(network, self.stride, self.input_size[0]) if self.tile is None else of_side(self.tile)
        if not tiles.side or max(inputs.shape[2:]) <= tiles.side:
            return network(inputs).float()
        found = torch.cat(list(predict_bands(network, inputs[0], *tiles, self.stride)), 1)[None]
        return found.logit(LEAST) if len(found[0]) == 1 else found.clamp(min=LEAST).log()

    def measure(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Loss and overlap counts, of the deepest output where there are several."""
        deepest = _each(outputs)[-1]
        counts = overlap_counts if deepest.shape[1] == 1 else class_counts
        return torch.cat([_exact(_losses(deepest, targets)[:, None]), _exact(counts(deepest, targets))], 1)

    def summarise(self, means: list[float]) -> dict[str, float]:
        loss, *counts = means
        if len(counts) > 3:
            return {"loss": loss, **class_figures(counts, self.names)}
        both, found, missed = counts
        union = both + found + missed
        # of images without foreground, in which none was found, the masks are the same
        iou, dice = (both / union, 2 * both / (union + both)) if union else (1.0, 1.0)
        return {"loss": loss, "iou": 100 * iou, "dice": 100 * dice}

    def illustrate(self, network: nn.Module, data: Split, path: Path) -> None:
        """Save a picture: image, truth and prediction of the first samples."""
        samples = []
        device = next(network.parameters()).device
        images, masks = data.__getitems__(range(min(EXAMPLES, len(data))))
        if self.resized:
            images, masks = resize_pairs(images, masks, self.input_size[0])
        for image, mask in zip(images, masks, strict=True):
            inputs, _ = self.inputs(([image.to(device)], [mask.to(device)]), None)
            with torch.no_grad():
                found = _found(self.predict(network.eval(), inputs))[0].cpu()
            samples.append((image, mask, found[: mask.shape[0], : mask.shape[1]].to(torch.uint8)))
        save_png(compare_masks(samples, names=self.names), path)

    def save(self, folder: Path) -> None:
        """Nothing."""


def _exact(values: Tensor) -> Tensor:
    """In float64: on CUDA without a synchronisation; else on the CPU, as Apple's GPUs have no float64."""
    return (values if values.is_cuda else values.cpu()).double()


def _each(outputs: Tensor) -> list[Tensor]:
    return list(outputs) if outputs.dim() == 5 else [outputs]


def _losses(logits: Tensor, targets: Tensor) -> Tensor:
    """Of each sample, by the number of maps."""
    return bce_dice(logits, targets) if logits.shape[1] == 1 else cross_entropy_dice(logits, targets)


def _found(logits: Tensor) -> Tensor:
    """The class of each pixel, ``(N, K, H, W)`` to ``(N, H, W)``; whether it is foreground where there is one map."""
    return logits[:, 0] >= 0 if logits.shape[1] == 1 else logits.argmax(1)


def _class_names(model: nn.Module, classes: Sequence[str]) -> tuple[str, ...]:
    """Names of the network's classes; numbers where the data has fewer or does not say."""
    maps = int(model.num_classes)  # type: ignore[arg-type]
    if len(classes) > maps or (maps > 1 and len(classes) == 1):
        raise UserError(
            f"The masks are of {_counted(classes)}, the network gives {maps} map(s): leave --num-classes out, or say "
            f"by --masks what their values mean."
        )
    return (*classes, *map(str, range(len(classes), maps)))


def _counted(classes: Sequence[str]) -> str:
    return "background and foreground" if len(classes) == 1 else f"{len(classes)} classes"


def _check_dense(model: nn.Module, side: int) -> None:
    """Refuse (UserError) a network that does not take a window or does not return a map of its size for each class."""
    name = model.pretrained_cfg["architecture"]  # type: ignore[index]
    training, parameter = model.training, next(model.parameters())
    try:
        with torch.no_grad():
            output = model.eval()(parameter.new_zeros(1, int(model.in_chans), side, side))  # type: ignore[arg-type]
    except (RuntimeError, ValueError, AssertionError) as error:
        raise UserError(
            f"{name} does not take windows of {side}x{side} pixels ({str(error).splitlines()[0]}); give others by "
            f"--set image_size=[256,256]."
        ) from error
    finally:
        model.train(training)
    if tuple(output.shape) != (1, int(model.num_classes), side, side):  # type: ignore[arg-type]
        raise UserError(
            f"{name} gives {tuple(output.shape[1:])} for an image of {side}x{side} pixels, not a map of that size for "
            f"each class; choose a segmentation network such as unet_lasilu (timm.list_models('unet*'))."
        )
