"""`layeract train`, `finetune`, `recipes`. Thin: each is one call into `training`, imported when it runs."""

from pathlib import Path
from typing import Annotated, Any

import typer

from ..errors import UserError
from .options import (
    BatchSize,
    Data,
    DataName,
    Epochs,
    LearningRate,
    Model,
    NumClasses,
    Output,
    RecipeName,
    Resume,
    Seed,
    Settings,
)


def train(
    model: Model,
    data: Data,
    output: Output,
    recipe: RecipeName = "cifar10_resnet",
    settings: Settings = None,
    epochs: Epochs = None,
    lr: LearningRate = None,
    batch_size: BatchSize = None,
    seed: Seed = None,
    num_classes: NumClasses = None,
    data_name: DataName = None,
    resume: Resume = False,
    embed: Annotated[
        str | None, typer.Option(help="Ship the weights with the package too, under this tag (for maintainers).")
    ] = None,
) -> None:
    """Train a network from its initialisation.

    A tenth of the training images is held out and chooses the best epoch; the test split is read once, at the end.

    Example: `layeract train -m resnet20_lasilu -d uoft-cs/cifar10 -r cifar10_fast -o runs/first`. On several
    processes: `accelerate launch scripts/train.py` with the same options.
    """
    overrides = dict(epochs=epochs, lr=lr, batch_size=batch_size, seed=seed)
    _train(model, data, output, recipe, settings, overrides, num_classes, data_name, resume, embed=embed)


def finetune(
    model: Model,
    data: Data,
    output: Output,
    recipe: RecipeName = "finetune",
    settings: Settings = None,
    epochs: Epochs = None,
    lr: LearningRate = None,
    batch_size: BatchSize = None,
    seed: Seed = None,
    data_name: DataName = None,
    resume: Resume = False,
) -> None:
    """Fine-tune a pretrained network on other data, with a new head where the classes differ.

    Example: `layeract finetune -m resnet20_lasilu -d my/images -o runs/mine`. The model may also be `hf-hub:ORG/NAME`
    or `local-dir:FOLDER`.
    """
    overrides = dict(epochs=epochs, lr=lr, batch_size=batch_size, seed=seed)
    _train(model, data, output, recipe, settings, overrides, None, data_name, resume, pretrained=True)


def recipes() -> None:
    """List the recipes that ship with the package."""
    from ..training.recipe import list_recipes, load_recipe

    for name in list_recipes():
        recipe = load_recipe(name)
        typer.echo(f"{name:16} {recipe.epochs:4d} epochs  {recipe.schedule:10} lr {recipe.lr:<7g} {recipe.source}")


def _train(
    model: str,
    data: str,
    output: Path,
    recipe: str,
    settings: list[str] | None,
    overrides: dict[str, Any],
    num_classes: int | None,
    data_name: str | None,
    resume: bool,
    **options: Any,
) -> None:
    import timm_layeract  # noqa: F401  (registers the models)

    from ..training.recipe import load_recipe
    from ..training.run import train

    changes = _parse_settings(settings or [])
    twice = [key for key, value in overrides.items() if value is not None and key in changes]
    if twice:
        raise UserError(f"{twice[0]} is given twice, as --{twice[0].replace('_', '-')} and by --set.")
    train(
        model,
        load_recipe(recipe, **{**overrides, **changes}),
        data,
        output,
        data_name=data_name,
        num_classes=num_classes,
        resume=resume,
        **options,
    )


def _parse_settings(settings: list[str]) -> dict[str, Any]:
    """``["lr=0.1", "milestones=[0.5]"]`` as values, read as YAML."""
    import yaml

    parsed = {}
    for setting in settings:
        key, separator, value = setting.partition("=")
        if not separator:
            raise UserError(f"--set takes key=value, got {setting!r}.")
        parsed[key.strip()] = yaml.safe_load(value)
    return parsed
