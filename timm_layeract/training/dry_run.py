"""What a run would do, before it is started: `layeract train --dry-run`."""

from datetime import timedelta
from pathlib import Path

from ..data.sources import holdout
from .engine import Trainer
from .recipe import Recipe
from .run import TASKS, prepare

__all__ = ["dry_run"]


def dry_run(
    model_name: str, recipe: Recipe, data: str, *, pretrained: bool = False, num_classes: int | None = None,
    steps: int = 6,
) -> str:  # fmt: skip
    """What `train` would do, for a person to read: recipe, model, steps, and time by running a few steps of it."""
    model, splits = prepare(model_name, recipe, data, pretrained, num_classes, progress=True)
    training, validation = holdout(splits["train"], recipe.validation_fraction, recipe.seed)
    task = TASKS[recipe.task](model, recipe, splits["train"])
    parameters = sum(parameter.numel() for parameter in model.parameters())
    trainer = Trainer(model, recipe, task, training, validation, Path(), workers=splits["train"].workers)
    sides = [recipe.training_side(epoch / trainer.epochs) for epoch in range(trainer.epochs)]
    seconds = {side: trainer.time_step(steps, sides.index(side)) for side in dict.fromkeys(sides)}
    # Images are evaluated in about a third of the time of training on them.
    evaluated = trainer.epochs * len(validation) + (len(splits["test"]) if "test" in splits else 0)
    trained = sum(seconds[side] for side in sides) * trainer.total_steps / trainer.epochs
    total = trained + seconds[sides[-1]] * evaluated / recipe.batch_size / 3
    lines = [f"{key}: {value}" for key, value in recipe.to_dict().items() if value is not None]
    return "\n".join(
        [
            *lines,
            "",
            f"model       {model_name}: {parameters:,} parameters, {parameters * 4 / 2**20:.1f} MiB in float32",
            f"data        {len(training):,} {task.samples} to train on, {len(validation):,} held out, "
            f"{len(splits['test']) if 'test' in splits else 0:,} to test on, {task.extent}",
            f"steps       {trainer.total_steps:,} in {trainer.epochs} epochs of {trainer.batches.steps:,}",
            f"time        about {timedelta(seconds=round(total))} (h:mm:ss) on {trainer.accelerator.device} "
            f"({recipe.batch_size * trainer.total_steps / trained:.0f} {task.samples}/s, measured on {steps} steps of "
            f"each size)",
        ]
    )
