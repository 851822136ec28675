"""What a run would do, before it is started: `layeract train --dry-run`."""

from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from .engine import Trainer
from .options import Execution
from .recipe import Recipe
from .run import build_trainer, prepare
from .start import Start
from .tasks import TASKS

__all__ = ["Estimate", "dry_run", "estimate"]

STEPS = 6  # that are run to be timed


@dataclass(frozen=True)
class Estimate:
    """What a run would do and how long it would take.

    Attributes:
        trainer: Of the run; its network has been trained by a few steps.
        test_samples: How many there are.
        training_seconds: Of training alone.
        seconds: Of everything.
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
    """Run a few steps of what `train` would do, and reckon with the time that they take."""
    model, splits = prepare(start, recipe, data, progress=True)
    task = TASKS[recipe.task](model, recipe, splits["train"])
    trainer = build_trainer(model, recipe, task, splits, Path(), Execution())
    sides = [recipe.training_side(epoch / trainer.epochs) for epoch in range(trainer.epochs)]
    seconds = {side: trainer.time_step(steps, sides.index(side)) for side in dict.fromkeys(sides)}
    # Images are evaluated in about a third of the time of training on them.
    test_samples = len(splits["test"]) if "test" in splits else 0
    evaluated = trainer.epochs * len(trainer.val_data) + test_samples
    trained = sum(seconds[side] for side in sides) * trainer.total_steps / trainer.epochs
    total = trained + seconds[sides[-1]] * evaluated / recipe.batch_size / 3
    return Estimate(trainer, test_samples, trained, total)


def dry_run(start: Start, recipe: Recipe, data: str) -> str:
    """What `train` would do, for a person to read: recipe, model, steps, and time."""
    found = estimate(start, recipe, data)
    trainer, task = found.trainer, found.trainer.task
    training, validation = (len(split) for split in (trainer.train_data, trainer.val_data))
    parameters = sum(parameter.numel() for parameter in trainer.unwrapped.parameters())
    lines = [f"{key}: {value}" for key, value in recipe.to_dict().items() if value is not None and key in recipe.keys]
    return "\n".join(
        [
            *lines,
            "",
            f"model       {start.name}: {parameters:,} parameters, {parameters * 4 / 2**20:.1f} MiB in float32",
            f"data        {training:,} {task.samples} to train on, {validation:,} held out, "
            f"{found.test_samples:,} to test on, {task.extent}",
            f"steps       {trainer.total_steps:,} in {trainer.epochs} epochs of {trainer.batches.steps:,}",
            f"time        about {found.time} (h:mm:ss) on {trainer.accelerator.device} "
            f"({recipe.batch_size * trainer.total_steps / found.training_seconds:.0f} {task.samples}/s, measured on "
            f"{STEPS} steps of each size)",
        ]
    )
