"""What the engine asks of a task, and what a run asks of one that a recipe names."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor, nn

from ..._utils.timm_types import PretrainedConfig
from ...data.augment import SampleRandom
from ...data.splits import Split
from ..recipe import Recipe

__all__ = ["NamedTask", "Task"]


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

    def inputs(
        self, batch: tuple[Any, ...], random: SampleRandom | None, side: int | None = None
    ) -> tuple[Tensor, Any]:
        """Network inputs and targets from what the split hands out, augmented where `random` is given.

        Inputs to train on are made smaller where their shorter `side` is given (see `Recipe.progressive_sizes`).
        """

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """What is minimised: a mean over the samples."""

    def match(self, outputs: Tensor, others: Tensor) -> Tensor:
        """How far outputs lie from those of another network (a teacher): a mean over the samples, to be minimised."""

    def decide(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Outputs of `predict` turned into targets; samples that `targets` exclude stay excluded."""

    def predict(self, network: nn.Module, inputs: Tensor) -> Tensor:
        """Outputs for evaluation."""

    def measure(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """K numbers for each sample, ``(N, K)``; `summarise` takes their means over the samples of all processes."""

    def summarise(self, means: list[float]) -> dict[str, float]:
        """Figures by name, from the K means: ``loss``, and percentages, among them the monitor."""

    def illustrate(self, network: nn.Module, data: Split, path: Path) -> None:
        """Save a picture of the network's predictions for some held-out samples, if the task has one."""


class NamedTask(Task, Protocol):
    """A task that recipes name, built from a network, a recipe and the training data; it also reads data by name."""

    def __init__(self, model: nn.Module, recipe: Recipe, train: Any) -> None:
        """Refuse (UserError) a network or data that do not suit this task."""

    @staticmethod
    def splits(
        source: str, recipe: Recipe, config: PretrainedConfig, progress: bool, labelled: bool = True
    ) -> Mapping[str, Split]:
        """The data set by name: ``"train"``, and where there are such, ``"test"`` and ``"validation"``.

        With `labelled` False it need have no labels, and none are read. `config` is timm's of the network.
        """

    @staticmethod
    def network_args(split: Any) -> dict[str, int]:
        """Arguments of `timm.create_model` that depend on the training data, besides the number of classes."""

    def save(self, folder: Path) -> None:
        """Write whatever else users of the trained model need into its folder."""
