"""Options that several subcommands share, with the words that explain them, and how their values are read."""

from pathlib import Path
from typing import Annotated

import typer

from ..errors import UserError

Model = Annotated[
    str,
    typer.Option(
        "--model",
        "-m",
        help="timm model name, such as resnet20_lasilu, or smp:ARCHITECTURE/ENCODER of segmentation_models_pytorch.",
    ),
]
Data = Annotated[
    str,
    typer.Option(
        "--data",
        "-d",
        help="Folder of parquet files (train-*.parquet, test-*.parquet), folder of images (train/CLASS/*.png or "
        "CLASS/*.png), or id of a data set on the Hub (uoft-cs/cifar10). For segmentation, parquet files or a data set "
        "with an image and a mask column, or a folder of images/NAME.png and masks/NAME.png. For text, parquet files "
        "or a data set with the columns text and label, or a folder of train/CLASS/*.txt or CLASS/*.txt.",
    ),
]
Digits = Annotated[
    str | None,
    typer.Option("--data", "-d", help="MNIST as a folder or on the Hub (ylecun/mnist); 5,000 digits if left out."),
]
Output = Annotated[
    Path | None, typer.Option("--output", "-o", help="New folder for log, checkpoints, model and result.")
]
Task = Annotated[
    str | None,
    typer.Option(help="classification, segmentation of images with masks, or text; that of the recipe if left out."),
]
RecipeName = Annotated[
    str | None, typer.Option("--recipe", "-r", help="Recipe of ours (`layeract recipes` lists them) or a YAML file.")
]
Settings = Annotated[
    list[str] | None,
    typer.Option("--set", help="Another value for a key of the recipe, as key=value; may be repeated."),
]
Epochs = Annotated[int | None, typer.Option(help="Passes over the training images, instead of the recipe's.")]
LearningRate = Annotated[float | None, typer.Option("--lr", help="Peak learning rate, instead of the recipe's.")]
Adversarial = Annotated[
    str | None, typer.Option(help="Train on images that an attack has made: pgd or fgsm, by 8/255 in every value.")
]
BatchSize = Annotated[int | None, typer.Option(help="Images in one optimizer step over all processes.")]
Seed = Annotated[int | None, typer.Option(help="Seed of initialisation, held-out images, order, augmentation.")]
NumClasses = Annotated[
    int | None, typer.Option(help="Outputs of the head; as many as the data has classes if left out.")
]
DataName = Annotated[str | None, typer.Option(help="What results call the data; the last part of --data if left out.")]
Resume = Annotated[bool, typer.Option("--resume", help="Continue the run in --output after its newest checkpoint.")]
Tracker = Annotated[
    str,
    typer.Option(help="Also log to tensorboard, trackio, wandb or another tracker of accelerate's (installed apart)."),
]
CheckpointSteps = Annotated[
    int, typer.Option(help="Optimizer steps between checkpoints; each epoch ends with one too.")
]
Workers = Annotated[
    int | None, typer.Option(help="Processes that read images; by default none for data in memory, else one a core.")
]
DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Print recipe, model size, steps and estimated time; train nothing.")
]


def parse_numbers(option: str, text: str | None) -> tuple[int, ...]:
    """``"11,22"`` as numbers; none of no text. Errors name the option."""
    try:
        return tuple(int(number) for number in text.split(",")) if text else ()
    except ValueError as error:
        raise UserError(f"{option} takes whole numbers with commas, got {text!r}.") from error
