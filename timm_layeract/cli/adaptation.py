"""`layeract adapt`: one call into `adaptation`, imported when it runs."""

from pathlib import Path
from typing import Annotated

import typer

from ..training.recipe import CHECKPOINT_STEPS, STATISTICS_BATCHES
from .options import (
    BatchSize,
    CheckpointSteps,
    Data,
    DataName,
    LearningRate,
    RecipeName,
    Resume,
    Seed,
    Settings,
    Tracker,
    Workers,
)
from .training import recipe_changes


def adapt(
    model: Annotated[
        str,
        typer.Argument(
            help="Trained network: timm name with weights (resnet50.a1_in1k), hf-hub:ORG/NAME, local-dir:FOLDER, a "
            "training run's folder, ARCHITECTURE=FILE, or smp:FOLDER of segmentation_models_pytorch."
        ),
    ],
    data: Data,
    output: Annotated[Path, typer.Option("--output", "-o", help="New folder for the model and the report.")],
    to: Annotated[str, typer.Option(help="Activation to adapt to: lasilu, lahardsilu, silu, ...")] = "lasilu",
    epochs: Annotated[
        int | None, typer.Option(min=0, help="Epochs of fine-tuning, 3 if left out; 0 re-estimates statistics only.")
    ] = None,
    unlabelled: Annotated[
        bool, typer.Option("--unlabelled", help="Read no labels: learn from the original network alone.")
    ] = False,
    distill: Annotated[
        bool, typer.Option(help="Learn from the original network beside the labels, for one forward pass of it more.")
    ] = True,
    statistics_batches: Annotated[
        int, typer.Option(min=0, help="Batches that BatchNorm's statistics are re-estimated on.")
    ] = STATISTICS_BATCHES,
    recipe: RecipeName = None,
    settings: Settings = None,
    lr: LearningRate = None,
    batch_size: BatchSize = None,
    seed: Seed = None,
    data_name: DataName = None,
    resume: Resume = False,
    tracker: Tracker = "none",
    checkpoint_steps: CheckpointSteps = CHECKPOINT_STEPS,
    workers: Workers = None,
) -> None:
    """Turn a trained network into one with another activation, in a few epochs.

    Swaps the activations, re-estimates BatchNorm's statistics, fine-tunes, and reports accuracy before and after,
    clean and under noise. The data has the network's own classes; the weights end in OUTPUT/model.

    Example: `layeract adapt resnet20.cifar10 --to lasilu -d uoft-cs/cifar10 -o runs/adapted`
    """
    from ..adaptation import adapt as run

    changes = recipe_changes(settings, dict(epochs=epochs, lr=lr, batch_size=batch_size, seed=seed))
    run(
        model,
        to,
        data=data,
        output=output,
        recipe=recipe,
        distill=distill,
        unlabelled=unlabelled,
        statistics_batches=statistics_batches,
        data_name=data_name,
        resume=resume,
        tracker=tracker,
        checkpoint_steps=checkpoint_steps,
        workers=workers,
        **changes,
    )
