"""A task taught by another network: its outputs are learned beside the labels, or in their place."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..data.augment import SampleRandom
from ..training.recipe import Recipe
from ..training.tasks import Task

__all__ = ["Taught"]

TEACHER_SHARE = 0.5  # of the teacher in the loss where there are labels
PRECISION = {"bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class _Lesson:
    """Targets of a batch, and what the teacher made of its inputs."""

    targets: Tensor
    outputs: Tensor


class Taught(Task):
    """Another task, with a teacher (Hinton et al. 2015).

    The teacher sees what the network sees, augmentation included. Without labels the loss is the distance to the
    teacher alone, and figures say how often the network agrees with it.

    Args:
        task: What the network is trained for.
        teacher: In evaluation mode, on the device of the inputs.
        recipe: Precision and layout that the teacher computes in.
        labelled: Whether the data's targets are to be believed.
    """

    def __init__(self, task: Task, teacher: nn.Module, recipe: Recipe, labelled: bool) -> None:
        self.task, self.teacher, self.recipe, self.labelled = task, teacher, recipe, labelled
        self.monitor, self.one_by_one = task.monitor, task.one_by_one
        self.samples, self.extent = task.samples, task.extent

    def inputs(
        self, batch: tuple[Any, ...], random: SampleRandom | None, side: int | None = None
    ) -> tuple[Tensor, Any]:
        """As the task's; targets to train on come with the teacher's outputs."""
        inputs, targets = self.task.inputs(batch, random, side)
        if random is None and self.labelled:
            return inputs, targets
        layout = torch.channels_last if self.recipe.channels_last else torch.contiguous_format
        precision = PRECISION.get(self.recipe.mixed_precision)
        with torch.no_grad(), torch.autocast(inputs.device.type, precision, enabled=precision is not None):
            outputs = self.task.predict(self.teacher, inputs.contiguous(memory_format=layout))
        if not self.labelled:
            targets = self.task.decide(outputs, targets)
        return inputs, targets if random is None else _Lesson(targets, outputs)

    def loss(self, outputs: Tensor, targets: Any) -> Tensor:
        """Half the task's loss and half the distance to the teacher; the distance alone without labels."""
        distance = self.task.match(outputs, targets.outputs)
        return (
            TEACHER_SHARE * distance + (1 - TEACHER_SHARE) * self.task.loss(outputs, targets.targets)
            if self.labelled
            else distance
        )

    def match(self, outputs: Tensor, others: Tensor) -> Tensor:
        return self.task.match(outputs, others)

    def decide(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return self.task.decide(outputs, targets)

    def predict(self, network: nn.Module, inputs: Tensor) -> Tensor:
        return self.task.predict(network, inputs)

    def measure(self, outputs: Tensor, targets: Any) -> Tensor:
        return self.task.measure(outputs, targets.targets if isinstance(targets, _Lesson) else targets)

    def summarise(self, means: list[float]) -> dict[str, float]:
        return self.task.summarise(means)

    def illustrate(self, network: nn.Module, data: Any, path: Path) -> None:
        self.task.illustrate(network, data, path)
