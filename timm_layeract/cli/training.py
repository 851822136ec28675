"""`layeract train`, `finetune`, `sweep`, `recipes`, `runs`, `embed`, `compare`.

Each is one call into `training`, imported when it runs.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from ..errors import UserError
from ..training.recipe import CHECKPOINT_STEPS
from .options import (
    Adversarial,
    BatchSize,
    CheckpointSteps,
    Data,
    DataName,
    DryRun,
    Epochs,
    LearningRate,
    Model,
    NumClasses,
    Output,
    RecipeName,
    Resume,
    Seed,
    Settings,
    Task,
    Tracker,
    Workers,
    parse_numbers,
)

# By task; that of classification without one.
TRAINING = {"classification": "cifar10_resnet", "segmentation": "segmentation_fast", "text": "imdb_textrcnn"}
FINE_TUNING = {"classification": "finetune", "segmentation": "finetune_segmentation"}


def train(
    model: Model,
    data: Data,
    output: Output = None,
    task: Task = None,
    recipe: RecipeName = None,
    settings: Settings = None,
    epochs: Epochs = None,
    lr: LearningRate = None,
    adversarial: Adversarial = None,
    batch_size: BatchSize = None,
    seed: Seed = None,
    num_classes: NumClasses = None,
    data_name: DataName = None,
    resume: Resume = False,
    tracker: Tracker = "none",
    checkpoint_steps: CheckpointSteps = CHECKPOINT_STEPS,
    workers: Workers = None,
    dry_run: DryRun = False,
) -> None:
    """Train a network from its initialisation, by the recipe cifar10_resnet, or one that fits --task.

    A tenth of the training images is held out and chooses the best epoch; the test split is read once, at the end.

    Example: `layeract train -m resnet20_lasilu -d uoft-cs/cifar10 -r cifar10_fast -o runs/first`. On several
    processes: `accelerate launch scripts/train.py` with the same options.
    """
    overrides = dict(epochs=epochs, lr=lr, adversarial=adversarial, batch_size=batch_size, seed=seed)
    logistics = dict(resume=resume, tracker=tracker, checkpoint_steps=checkpoint_steps, workers=workers)
    what = dict(num_classes=num_classes, pretrained=False)
    chosen = _recipe(recipe, task, TRAINING, settings, overrides)
    _train(model, data, output, chosen, what, dry_run, data_name=data_name, **logistics)


def finetune(
    model: Model,
    data: Data,
    output: Output = None,
    task: Task = None,
    recipe: RecipeName = None,
    settings: Settings = None,
    epochs: Epochs = None,
    lr: LearningRate = None,
    adversarial: Adversarial = None,
    batch_size: BatchSize = None,
    seed: Seed = None,
    data_name: DataName = None,
    resume: Resume = False,
    tracker: Tracker = "none",
    checkpoint_steps: CheckpointSteps = CHECKPOINT_STEPS,
    workers: Workers = None,
    dry_run: DryRun = False,
) -> None:
    """Fine-tune a pretrained network on other data, with a new head where the classes differ.

    By the recipe finetune; for images with masks (--task segmentation) finetune_segmentation.

    Example: `layeract finetune -m resnet20_lasilu -d my/images -o runs/mine`. The model may also be `hf-hub:ORG/NAME`
    or `local-dir:FOLDER`.
    """
    overrides = dict(epochs=epochs, lr=lr, adversarial=adversarial, batch_size=batch_size, seed=seed)
    logistics = dict(resume=resume, tracker=tracker, checkpoint_steps=checkpoint_steps, workers=workers)
    chosen = _recipe(recipe, task, FINE_TUNING, settings, overrides)
    _train(model, data, output, chosen, dict(pretrained=True), dry_run, data_name=data_name, **logistics)


def sweep(
    models: Annotated[list[str], typer.Argument(help="Names of the networks, as of `layeract train`.")],
    data: Data,
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder of the runs' folders, MODEL.seedN.")],
    seeds: Annotated[str, typer.Option(help="Of the runs of each network, with commas.")] = "11,22,33",
    task: Task = None,
    recipe: RecipeName = None,
    settings: Settings = None,
    epochs: Epochs = None,
    lr: LearningRate = None,
    batch_size: BatchSize = None,
    data_name: DataName = None,
    tracker: Tracker = "none",
    checkpoint_steps: CheckpointSteps = CHECKPOINT_STEPS,
    workers: Workers = None,
) -> None:
    """Train several networks with several seeds by one recipe.

    Given again, it goes on where it was interrupted. Several may sweep one folder at the same time, one for each GPU
    (CUDA_VISIBLE_DEVICES) or core: each takes a run that no other has. `layeract compare` puts finished runs side by
    side.

    Example: `layeract sweep resnet20 resnet20_lasilu -d uoft-cs/cifar10 -r cifar10_quick -o runs/activations`
    """
    import timm_layeract  # noqa: F401  (registers the models)

    from ..training.sweep import sweep as run

    chosen = _recipe(recipe, task, TRAINING, settings, dict(epochs=epochs, lr=lr, batch_size=batch_size))
    run(
        models,
        parse_numbers("--seeds", seeds),
        chosen,
        data,
        output,
        data_name=data_name,
        tracker=tracker,
        checkpoint_steps=checkpoint_steps,
        workers=workers,
    )
    runs(output)


def recipes() -> None:
    """List the recipes that ship with the package."""
    from ..training.recipe import list_recipes, load_recipe

    for name in list_recipes():
        recipe = load_recipe(name)
        length = f"{recipe.epochs} epochs" if recipe.epochs else f"{recipe.steps} steps"
        typer.echo(f"{name:18} {length:>12}  {recipe.schedule:10} lr {recipe.lr:<7g} {recipe.source}")


def runs(
    folder: Annotated[Path, typer.Argument(help="Folder that holds the runs' folders.")] = Path("runs"),
) -> None:
    """List the runs in a folder, with their state and best figure.

    Example: `layeract runs runs`.
    """
    from rich.console import Console

    from ..training.runs import runs_table

    Console().print(runs_table(folder))


def embed(
    runs: Annotated[
        list[Path] | None, typer.Argument(help="Folders of finished runs that differ in the seed alone.")
    ] = None,
    tag: Annotated[
        str | None, typer.Option("--tag", help="Names the weights: cifar10 in resnet20_lasilu.cifar10.")
    ] = None,
    robustness: Annotated[
        Path | None,
        typer.Option(help="robustness.json of `layeract robustness` for embedded networks, to ship its figures."),
    ] = None,
) -> None:
    """Ship the weights of the first of these runs with the package, and the results of all (for maintainers).

    Example: `layeract embed runs/resnet20_lasilu.seed* --tag cifar10`, then `make readme cards`.
    """
    import timm_layeract  # noqa: F401  (registers the models)

    from ..release.embed import embed_runs
    from ..release.embed_robustness import embed_robustness

    if bool(runs) != (tag is not None) or not (runs or robustness):
        raise UserError("Give folders of runs and a --tag for their weights, or --robustness FILE.")
    if runs and tag:
        typer.echo(f"embedded as {embed_runs(runs, tag)}")
    if robustness:
        typer.echo(f"robustness of {', '.join(embed_robustness(robustness))}")


def compare(
    runs: Annotated[
        list[Path], typer.Argument(help="Folders of finished runs that differ in model, start and seed alone.")
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="JSON file for the results.")],
) -> None:
    """Put the results of several models side by side: mean and deviation over the seeds of each.

    Example: `layeract compare runs/resnet20.seed* runs/resnet20_nrelu.seed* -o docs/results/cifar10_quick.json`, then
    `make readme`.
    """
    from ..training.compare import compare_runs, comparison_provenance, comparison_table

    comparison = compare_runs(runs, output)
    typer.echo(f"{comparison_table(comparison)}\n\n{comparison_provenance(comparison)}")


def _train(
    model: str,
    data: str,
    output: Path | None,
    recipe: Any,
    what: dict[str, Any],
    dry_run: bool,
    **options: Any,
) -> None:
    import timm_layeract  # noqa: F401  (registers the models)

    from ..training.dry_run import dry_run as describe
    from ..training.run import train as run

    if dry_run:
        typer.echo(describe(model, recipe, data, **what))
    elif output is None:
        raise UserError("Say where the run goes with --output FOLDER, or try it with --dry-run.")
    else:
        run(model, recipe, data, output, **what, **options)


def _recipe(
    recipe: str | None,
    task: str | None,
    defaults: Mapping[str, str],
    settings: list[str] | None,
    overrides: dict[str, Any],
) -> Any:
    """The recipe that is asked for, by name or by task, with what is to be otherwise in it."""
    from ..training.recipe import list_recipes, load_recipe

    recipe = recipe or defaults.get(task or "classification", defaults["classification"])
    resolved = load_recipe(recipe, **recipe_changes(settings, overrides))
    if task not in (None, resolved.task):
        fitting = [name for name in list_recipes() if load_recipe(name).task == task]
        raise UserError(f"Recipe {resolved.name} is for {resolved.task}; for {task}: {', '.join(fitting) or 'none'}.")
    return resolved


def recipe_changes(settings: list[str] | None, options: dict[str, Any]) -> dict[str, Any]:
    """What is to replace a recipe's values: those of ``--set``, and of options with a name of their own."""
    given = {key: value for key, value in options.items() if value is not None}
    changes = _parse_settings(settings or [])
    twice = [key for key in given if key in changes]
    if twice:
        raise UserError(f"{twice[0]} is given twice, as --{twice[0].replace('_', '-')} and by --set.")
    return {**given, **changes}


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
