"""What a run would do, before it is started: `layeract train --dry-run`."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from torch import nn

from ..data.splits import Split
from .engine import Trainer
from .options import Execution
from .recipe import Recipe
from .run import build_trainer, prepare
from .start import Start
from .tasks import TASKS, Task

__all__ = ["Estimate", "described", "dry_run", "estimate", "estimate_run"]

STEPS = 6  # that are run to be timed


@dataclass(frozen=True)
class Estimate:
    """What a run would do and how long it would take.

    Attributes:
        trainer: Trainer of the run, whose network has taken a few steps.
        test_samples: Number of test samples.
        training_seconds: Time of training alone.
        seconds: Time of the whole run.
    """

    trainer: Trainer
    test_samples: int
    training_seconds: float
    seconds: float

    @property
    def time(self) -> timedelta:
        """To the second."""
        return timedelta(seconds=round(self.seconds))


def estimate(start: Start, recipe: Recipe, data: str, steps: int = STEPS) -> Estimate:
    """Time a few steps of what `train` would do, and extrapolate."""
    model, splits = prepare(start, recipe, data, progress=True)
    return estimate_run(model, recipe, TASKS[recipe.task](model, recipe, splits["train"]), splits, steps)


def estimate_run(
    model: nn.Module, recipe: Recipe, task: Task, splits: Mapping[str, Split], steps: int = STEPS, forward: int = 0
) -> Estimate:
    """Estimate a run from its network and data; `forward` is the number of further batches without a backward pass."""
    trainer = build_trainer(model, recipe, task, splits, Path(), Execution())
    sides = [recipe.training_side(epoch / trainer.epochs) for epoch in range(trainer.epochs)] or [None]
    seconds = {side: trainer.time_step(steps, sides.index(side)) for side in dict.fromkeys(sides)}
    # Images are evaluated in about a third of the time of training on them.
    test_samples = len(splits["test"]) if "test" in splits else 0
    evaluated = trainer.epochs * len(trainer.val_data) + test_samples
    trained = sum(seconds[side] for side in sides) * trainer.total_steps / len(sides)
    total = trained + seconds[sides[-1]] * (evaluated / recipe.batch_size + forward) / 3
    return Estimate(trainer, test_samples, trained, total)


def dry_run(start: Start, recipe: Recipe, data: str) -> str:
    """What `train` would do, for a person to read: recipe, model, steps, and time."""
    return described(start.name, estimate(start, recipe, data))


def described(name: str, found: Estimate) -> str:
    """What a run would do to a network of that name, for a person to read."""
    trainer, task, recipe = found.trainer, found.trainer.task, found.trainer.recipe
    speed = recipe.batch_size * trainer.total_steps / found.training_seconds if found.training_seconds else 0.0
    training, validation = (len(split) for split in (trainer.train_data, trainer.val_data))
    parameters = sum(parameter.numel() for parameter in trainer.unwrapped.parameters())
    lines = [f"{key}: {value}" for key, value in recipe.to_dict().items() if value is not None and key in recipe.keys]
    return "\n".join(
        [
            *lines,
            "",
            f"model       {name}: {parameters:,} parameters, {parameters * 4 / 2**20:.1f} MiB in float32",
            f"data        {training:,} {task.samples} to train on, {validation:,} held out, "
            f"{found.test_samples:,} to test on, {task.extent}",
            f"steps       {trainer.total_steps:,} in {trainer.epochs} epochs of {trainer.batches.steps:,}",
            f"time        about {found.time} (h:mm:ss) on {trainer.accelerator.device} "
            f"({speed:.0f} {task.samples}/s, measured on {STEPS} steps of each size)",
        ]
    )
