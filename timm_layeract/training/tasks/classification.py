"""What is trained for: how a batch becomes inputs and targets, the loss, and the figures."""

from pathlib import Path
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from timm.data import resolve_model_data_config
from torch import Tensor, nn
from torchvision.transforms.functional import ten_crop

from ...data.augment import SampleRandom, normalize, random_crop_flip, random_erase
from ...data.classes import check_channels
from ...data.columns import Columns
from ...data.sources import Split, load_splits
from ...errors import UserError
from ...models.text_rcnn import TextRCNN
from ...models.unet_layeract import UNet, UNetPlusPlus
from ...robustness.attacks import fgsm, pgd
from ..recipe import MASK_KEYS, TEXT_KEYS, Recipe

__all__ = ["Classification", "NamedTask", "Task"]

PGD_STEPS = 7
TEMPERATURE = 2.0  # of distillation


class Task(Protocol):
    """What the engine asks of a task.

    Attributes:
        monitor: Figure that chooses the best epoch on held-out data; higher is better.
        one_by_one: Samples have sizes of their own: evaluation takes each alone.
        samples: What a sample is called, in the plural.
        extent: How large samples are, for a person to read.
    """

    monitor: str
    one_by_one: bool
    samples: str
    extent: str

    def inputs(self, batch: tuple[Tensor, ...], random: SampleRandom | None) -> tuple[Tensor, Tensor]:
        """Network inputs and targets from what the split hands out, augmented where `random` is given."""

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """What is minimised: a mean over the samples."""

    def match(self, outputs: Tensor, others: Tensor) -> Tensor:
        """How far outputs lie from those of another network (a teacher): a mean over the samples, to be minimised."""

    def decide(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """What outputs of `predict` say as targets; where `targets` say that nothing counts, they still do."""

    def predict(self, network: nn.Module, inputs: Tensor) -> Tensor:
        """Outputs for evaluation."""

    def measure(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Numbers ``(N, K)`` for each sample; their means over samples, whoever computed them, go to `summarise`."""

    def summarise(self, means: list[float]) -> dict[str, float]:
        """Figures by name, from the K means: ``loss``, and percentages, among them the monitor."""

    def illustrate(self, network: nn.Module, data: Any, path: Path) -> None:
        """Save a picture of what the network makes of some held-out samples, if there is anything to see."""


class NamedTask(Task, Protocol):
    """A task that reads a data set by name."""

    @staticmethod
    def splits(
        source: str, recipe: Recipe, input_size: tuple[int, int], progress: bool, labelled: bool = True
    ) -> dict[str, Any]:
        """The data set by name: ``"train"`` and perhaps ``"test"``, each a map-style data set with `__getitems__`.

        With `labelled` False it need have no labels, and none are read.
        """

    @staticmethod
    def network_args(split: Any) -> dict[str, Any]:
        """Arguments of `timm.create_model` that the training data decides, beside the number of classes."""

    def save(self, folder: Path) -> None:
        """Write into the trained model's folder what its users need beside it, if there is anything."""


class Classification:
    """Cross-entropy on labelled images; top-1 accuracy in percent.

    Args:
        model: timm model; its `pretrained_cfg` gives mean and deviation. Attacked where the recipe says so.
        recipe: Augmentation, attack and label smoothing.
        splits: Whose labels must fit the model's head.

    Raises:
        UserError: Labels outside the head's classes, a network for segmentation or texts, recipe keys of texts.
    """

    monitor = "top1"
    one_by_one = False
    samples = "images"

    def __init__(self, model: nn.Module, recipe: Recipe, *splits: Split) -> None:
        if isinstance(model, UNet | UNetPlusPlus):
            raise UserError(f"{type(model).__name__} is a segmentation network: train it with --task segmentation.")
        if isinstance(model, TextRCNN):
            raise UserError(f"{type(model).__name__} reads texts, not images: layeract train --task text trains it.")
        recipe.refuse("images", TEXT_KEYS)
        recipe.refuse("classification", MASK_KEYS)
        if (getattr(model, "pretrained_cfg", None) or {}).get("fixed_input_size"):
            recipe.refuse("a network for images of one size", ("progressive_sizes",))
        check_channels(model)
        self.model, self.recipe = model, recipe
        data_config = resolve_model_data_config(model)
        self.mean, self.std = data_config["mean"], data_config["std"]
        self.input_size: tuple[int, int] = recipe.image_size or tuple(data_config["input_size"][1:])
        self.extent = f"at {'x'.join(map(str, self.input_size))}"
        check_labels(model, *splits)

    @staticmethod
    def splits(
        source: str, recipe: Recipe, input_size: tuple[int, int], progress: bool, labelled: bool = True
    ) -> dict[str, Split]:
        """The data set, decoded at the size that the network takes."""
        columns = Columns(recipe.image_column, recipe.label_column)
        return load_splits(source, input_size, recipe.ten_crop, progress, labelled, columns)

    @staticmethod
    def network_args(split: Split) -> dict[str, Any]:
        """None."""
        return {}

    def inputs(self, batch: tuple[Tensor, ...], random: SampleRandom | None) -> tuple[Tensor, Tensor]:
        images, labels = batch
        if random is None:
            return normalize(images, self.mean, self.std), labels
        images = random_crop_flip(images, self.recipe.padding, self.recipe.flip, random)
        augmented = random_erase(normalize(images, self.mean, self.std), self.recipe.random_erasing, random)
        return self._attack(augmented, labels, random), labels

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
        return F.cross_entropy(outputs, targets, label_smoothing=self.recipe.label_smoothing)

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
        loss = F.cross_entropy(outputs.float(), targets, reduction="none")
        return torch.stack([loss, (outputs.argmax(1) == targets).to(loss.dtype)], dim=1)

    def summarise(self, means: list[float]) -> dict[str, float]:
        return {"loss": means[0], "top1": 100 * means[1]}

    def illustrate(self, network: nn.Module, data: Split, path: Path) -> None:
        """Nothing: the figures say it all."""

    def save(self, folder: Path) -> None:
        """Nothing."""


def check_labels(model: nn.Module, *splits: Any) -> None:
    """Refuse (UserError) labels that a model's head has no output for."""
    for split in splits:
        highest = int(split.labels.max())
        if highest >= int(model.num_classes):  # type: ignore[arg-type]
            raise UserError(
                f"The data has labels up to {highest} ({len(split.classes)} classes), the model's head has "
                f"{model.num_classes}; leave --num-classes out, or give at least {len(split.classes)}."
            )
