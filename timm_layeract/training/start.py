"""The network that a run starts from, by the names that training takes: timm's, and SMP's behind ``smp:``."""

from dataclasses import dataclass
from typing import Any

import timm
import torch

from .._utils.names import is_smp
from ..data.sources import Split
from ..errors import UserError, did_you_mean
from .recipe import Recipe
from .tasks import TASKS
from .tasks.text import check_reads_text

__all__ = ["Start"]


@dataclass(frozen=True)
class Start:
    """A network by name, as a run starts from it.

    Attributes:
        name: timm name, ``arch`` or ``arch.tag``; also ``hf-hub:`` and ``local-dir:``; and of SMP's networks
            ``smp:ARCHITECTURE/ENCODER``, or ``smp:FOLDER`` of a pretrained one.
        pretrained: Start from the network's weights, with a new head where the classes differ in number.
        num_classes: Outputs of the head; the data's number of classes if None.
    """

    name: str
    pretrained: bool = False
    num_classes: int | None = None

    @property
    def weights(self) -> str | None:
        """What the weights are called that it starts from, None where they are drawn."""
        return self.name if self.pretrained else None

    def check(self, recipe: Recipe) -> None:
        """Refuse (UserError) a name that there is not, or a network that is not for the recipe's task."""
        if ":" not in self.name and not timm.is_model(self.name):
            raise UserError(f"Unknown model {self.name!r}; {did_you_mean(self.name.split('.')[0], timm.list_models())}")
        if not recipe.epochs and not recipe.steps:
            raise UserError(f"Recipe {recipe.name} trains for 0 epochs; give more.")
        check_reads_text(self.describe()[0], recipe, self.pretrained)
        if self.pretrained and ":" not in self.name and not timm.models.is_model_pretrained(self.name):
            with_weights = timm.list_models("*lasilu*", pretrained=True)
            raise UserError(
                f"{self.name} has no pretrained weights; models of ours that have: {', '.join(with_weights)}."
            )

    def describe(self) -> tuple[str, tuple[int, int]]:
        """Its architecture, and (H, W) that it is made for; (0, 0) where its data keeps its own sizes."""
        if is_smp(self.name):
            return self.name, (0, 0)
        try:
            with torch.device("meta"):  # without memory
                config: dict[str, Any] = timm.create_model(self.name).pretrained_cfg  # type: ignore[assignment]
        except OSError as error:
            raise UserError(f"{self.name} cannot be read: {str(error).splitlines()[0]}") from error
        height, width = config["input_size"][1:]
        return config["architecture"], (height, width)

    def create(self, recipe: Recipe, split: Split) -> torch.nn.Module:
        """The network for training data; its weights are drawn from torch's random numbers as they stand."""
        classes = self.num_classes or len(split.classes)
        if is_smp(self.name):
            from ..smp.by_name import create_by_name, load_by_name

            return load_by_name(self.name) if self.pretrained else create_by_name(self.name, classes)
        arguments = TASKS[recipe.task].network_args(split)
        return timm.create_model(self.name, pretrained=self.pretrained, num_classes=classes, **arguments)
