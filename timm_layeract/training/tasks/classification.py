"""Classification of images as a task: augmented images, cross-entropy, top-1 accuracy; adversarial training."""

from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from timm.data import Mixup, resolve_model_data_config
from timm.data.mixup import mixup_target
from timm.loss import BinaryCrossEntropy
from torch import Tensor, nn
from torchvision.transforms.functional import resize, ten_crop

from ..._utils.timm_types import PretrainedConfig
from ...data.augment import SampleRandom, normalize, random_crop_flip, random_erase
from ...data.classes import check_channels
from ...data.columns import Columns
from ...data.sources import Images, StoredSplit, load_splits
from ...data.splits import Split
from ...data.views import seeded
from ...errors import UserError
from ...models.text_rcnn import TextRCNN
from ...models.unet_layeract import UNet, UNetPlusPlus
from ...robustness.attacks import fgsm, pgd
from ..batches import stream
from ..preprocessing import test_view, training_view
from ..recipe import Recipe

__all__ = ["Classification", "check_labels"]

PGD_STEPS = 7
TEMPERATURE = 2.0  # of distillation


class Classification:
    """Cross-entropy on labelled images; top-1 accuracy in percent.

    Args:
        model: timm model; its `pretrained_cfg` gives mean and deviation. Attacked where the recipe says so.
        recipe: Augmentation, attack and label smoothing.
        train: Whose labels must fit the model's head.

    Raises:
        UserError: Labels outside the head's classes, a network for segmentation or texts.
    """

    monitor = "top1"
    one_by_one = False
    samples = "images"

    def __init__(self, model: nn.Module, recipe: Recipe, train: Split | None = None) -> None:
        if isinstance(model, UNet | UNetPlusPlus):
            raise UserError(f"{type(model).__name__} is a segmentation network: train it with --task segmentation.")
        if isinstance(model, TextRCNN):
            raise UserError(f"{type(model).__name__} reads texts, not images: layeract train --task text trains it.")
        if recipe.progressive_sizes and (getattr(model, "pretrained_cfg", None) or {}).get("fixed_input_size"):
            raise UserError(f"Recipe {recipe.name}: progressive_sizes is not for a network for images of one size.")
        check_channels(model)
        self.model, self.recipe = model, recipe
        data_config = resolve_model_data_config(model)
        self.mean, self.std = data_config["mean"], data_config["std"]
        self.input_size: tuple[int, int] = recipe.image_size or tuple(data_config["input_size"][1:])
        self.mixup = _mixup(recipe, model)
        self.extent = f"at {'x'.join(map(str, self.input_size))}"
        if train is not None:
            check_labels(model, train)
            if recipe.train_crop_mode and not isinstance(train, StoredSplit):
                raise UserError(
                    f"Recipe {recipe.name} crops photographs from their files (train_crop_mode): give data by name, "
                    f"not images in memory."
                )

    @staticmethod
    def splits(
        source: str, recipe: Recipe, config: PretrainedConfig, progress: bool, labelled: bool = True
    ) -> dict[str, Images]:
        """The data set, its images preprocessed for the network; see `training.preprocessing`."""
        if not config:
            raise UserError("A network of segmentation_models_pytorch is trained with --task segmentation.")
        columns, views = Columns(recipe.image_column, recipe.label_column), (training_view, test_view)
        train, test = (view(recipe, config) for view in views)
        return load_splits(source, train, test, progress, labelled, columns)

    @staticmethod
    def network_args(train: Split) -> dict[str, int]:
        """None."""
        return {}

    def inputs(
        self, batch: tuple[Tensor, ...], random: SampleRandom | None, side: int | None = None
    ) -> tuple[Tensor, Tensor]:
        images, labels = batch
        if random is None:
            return normalize(images, self.mean, self.std), labels
        if side is not None:
            images = resize(images, side)
        if self.recipe.train_crop_mode is None:
            images = random_crop_flip(images, self.recipe.padding, self.recipe.flip, random)
        augmented = random_erase(normalize(images, self.mean, self.std), self.recipe.random_erasing, random)
        return self._mixed(self._attack(augmented, labels, random), labels, random)

    def _mixed(self, images: Tensor, labels: Tensor, random: SampleRandom) -> tuple[Tensor, Tensor]:
        """Images mixed with others of what this process takes at once, and shares of their classes ``(N, classes)``.

        The last of an odd number stays as it is.
        """
        if self.mixup is None:
            return images, labels
        pairs = len(images) - len(images) % 2
        plain = mixup_target(labels[pairs:], self.mixup.num_classes, smoothing=self.mixup.label_smoothing)
        if not pairs:
            return images, plain
        with seeded(stream(random.seed, random.rows.start or 0)):
            _, shares = self.mixup(images[:pairs], labels[:pairs])  # in place
        return images, torch.cat([shares, plain])

    def _attack(self, inputs: Tensor, labels: Tensor, random: SampleRandom) -> Tensor:
        """The inputs that the recipe's attack makes of these, both normalised.

        The network is in evaluation mode meanwhile, so that its running statistics see only what it is trained on.
        """
        recipe = self.recipe
        if recipe.adversarial == "none":
            return inputs
        mean, std = (inputs.new_tensor(values)[:, None, None] for values in (self.mean, self.std))

        def network(images: Tensor) -> Tensor:
            normalised = (images - mean) / std
            # the layout of its parameters, as the engine hands it
            layout = torch.channels_last if recipe.channels_last else torch.contiguous_format
            return self.model(normalised.contiguous(memory_format=layout)).float()

        images, epsilon = (inputs * std + mean).clamp(0, 1), recipe.adversarial_epsilon / 255
        was_training = self.model.training
        self.model.eval()
        if recipe.adversarial == "fgsm":
            attacked = fgsm(network, images, labels, epsilon)
        else:
            start = random.uniform(*images.shape[1:])
            attacked = pgd(network, images, labels, epsilon, steps=PGD_STEPS, start=start)
        self.model.train(was_training)
        return (attacked - mean) / std

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Cross-entropy with labels or with soft targets, already smoothed; or binary cross-entropy of each class."""
        smoothing = 0.0 if targets.dim() == 2 else self.recipe.label_smoothing
        if self.recipe.bce_loss:
            return BinaryCrossEntropy(smoothing, self.recipe.bce_target_thresh)(outputs, targets)
        return F.cross_entropy(outputs, targets, label_smoothing=smoothing)

    def match(self, outputs: Tensor, others: Tensor) -> Tensor:
        """Divergence of the softened predictions (Hinton et al. 2015), times the square of the temperature."""
        soft, wanted = ((each.float() / TEMPERATURE).log_softmax(1) for each in (outputs, others))
        return TEMPERATURE**2 * F.kl_div(soft, wanted, log_target=True, reduction="batchmean")

    def decide(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return outputs.argmax(1)

    def predict(self, network: nn.Module, inputs: Tensor) -> Tensor:
        """Logits; of images decoded for ten crops, the logarithm of the crops' mean probabilities."""
        if self.recipe.ten_crop is None or tuple(inputs.shape[2:]) == self.input_size:
            return network(inputs).float()
        crops = ten_crop(inputs, list(self.input_size))
        return torch.stack([network(crop).float().softmax(1) for crop in crops]).mean(0).log()

    def measure(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Cross-entropy, and whether the largest output is that of the label (of soft targets, the largest share)."""
        loss = F.cross_entropy(outputs.float(), targets, reduction="none")
        labels = targets.argmax(1) if targets.dim() == 2 else targets
        return torch.stack([loss, (outputs.argmax(1) == labels).to(loss.dtype)], dim=1)

    def summarise(self, means: list[float]) -> dict[str, float]:
        return {"loss": means[0], "top1": 100 * means[1]}

    def illustrate(self, network: nn.Module, data: Split, path: Path) -> None:
        """Nothing: the figures say it all."""

    def save(self, folder: Path) -> None:
        """Nothing."""


def _mixup(recipe: Recipe, model: nn.Module) -> Mixup | None:
    """timm's mixing of images, None where the recipe mixes none."""
    if not recipe.mixup and not recipe.cutmix:
        return None
    return Mixup(
        recipe.mixup,
        recipe.cutmix,
        prob=recipe.mixup_prob,
        switch_prob=recipe.mixup_switch_prob,
        mode=recipe.mixup_mode,
        label_smoothing=recipe.label_smoothing,
        num_classes=int(model.num_classes),  # type: ignore[arg-type]
    )


def check_labels(model: nn.Module, train: Any) -> None:
    """Refuse (UserError) labels that a model's head has no output for."""
    highest = int(train.labels.max())
    if highest >= int(model.num_classes):  # type: ignore[arg-type]
        raise UserError(
            f"The data has labels up to {highest} ({len(train.classes)} classes), the model's head has "
            f"{model.num_classes}; leave --num-classes out, or give at least {len(train.classes)}."
        )
