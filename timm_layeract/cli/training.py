"""`layeract train`, `finetune`, `sweep`, `recipes`, `runs`, `embed`, `compare`.

Each is one call into `training`, imported when it runs.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..errors import UserError
from ..training.options import TRAINING, Execution, RunOptions
from .options import DryRun, ModelName, Output, given, output_file, output_folder, parse_numbers, with_options

if TYPE_CHECKING:
    from ..training.start import Start


@with_options()
def train(
    model: ModelName,
    options: RunOptions,
    execution: Execution,
    output: Output = None,
    dry_run: DryRun = False,
) -> None:
    """Train a network from its initialisation, by the recipe cifar10_resnet, or one that fits --task.

    A tenth of the training images is held out and chooses the best epoch; the test split is read once, at the end.

    Example: `layeract train -m resnet20_lasilu -d uoft-cs/cifar10 -r cifar10_fast -o runs/first`. On several
    processes: `accelerate launch scripts/train.py` with the same options.
    """
    from ..training.start import Start

    _train(Start.by_options(model, options), options, execution, output, dry_run)


@with_options()
def finetune(
    model: ModelName,
    options: RunOptions,
    execution: Execution,
    output: Output = None,
    dry_run: DryRun = False,
) -> None:
    """Fine-tune a pretrained network on other data, with a new head where the classes differ.

    By the recipe finetune; for a network that takes images of more than 64 px by finetune_photographs, which crops
    photographs at random; for images with masks (--task segmentation) by finetune_segmentation.

    Example: `layeract finetune -m resnet20_lasilu -d my/images -o runs/mine`
    """
    from ..training.start import Start

    _train(Start.by_options(model, options, pretrained=True), options, execution, output, dry_run)


@with_options("seed", "resume")
def sweep(
    options: RunOptions,
    execution: Execution,
    output: Annotated[Path, output_folder("Folder of the runs' folders, MODEL.seedN.")],
    models: Annotated[list[str] | None, typer.Argument(help="Names of the networks, as for `layeract train`.")] = None,
    seeds: Annotated[str | None, typer.Option(help="Of the runs of each network; 11,22,33 if left out.")] = None,
    queue: Annotated[
        Path | None,
        typer.Option(
            help="YAML file with a list of runs, each with a model and perhaps seeds, a name, pretrained, set, and any "
            "of these options (recipe, epochs, ...), which stand above those of the command line."
        ),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the runs and the time that each will take; train nothing.")
    ] = False,
) -> None:
    """Train several networks with several seeds by one recipe, or the runs of a queue file.

    Given again, it goes on where it was interrupted. Several may sweep one folder at the same time, one for each GPU
    (CUDA_VISIBLE_DEVICES) or core: each takes a run that no other has. `layeract compare` puts finished runs side by
    side.

    Example: `layeract sweep resnet20 resnet20_lasilu -d uoft-cs/cifar10 -r cifar10_quick -o runs/activations`
    """
    import timm_layeract  # noqa: F401  (registers the models)

    from ..training.start import Start
    from ..training.sweep import forecast, plan, read_queue
    from ..training.sweep import sweep as run

    if bool(models) == bool(queue) or (queue and seeds is not None):
        raise UserError("Give names of models, perhaps with --seeds, or --queue FILE, which says both.")
    if queue:
        planned = read_queue(queue, options, output)
    else:
        numbers = parse_numbers("--seeds", "11,22,33" if seeds is None else seeds)
        recipe = options.load_recipe(TRAINING)
        starts = [Start.by_options(model, options) for model in models or ()]
        planned = plan(starts, numbers, recipe, options.data, output, options.data_name)
    if dry_run:
        for name, recipe_name, time in forecast(planned, execution):
            typer.echo(f"{name:40} {recipe_name:20} {time}")
    else:
        run(planned, execution)
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
    output: Annotated[Path, output_file("JSON file for the results.")],
) -> None:
    """Put the results of several models side by side: mean and deviation over the seeds of each.

    Example: `layeract compare runs/resnet20.seed* runs/resnet20_nrelu.seed* -o docs/results/cifar10_quick.json`, then
    `make readme`.
    """
    from ..training.compare import compare_runs, comparison_provenance, comparison_table

    comparison = compare_runs(runs, output)
    typer.echo(f"{comparison_table(comparison)}\n\n{comparison_provenance(comparison)}")


def _train(
    start: "Start",
    options: RunOptions,
    execution: Execution,
    output: Path | None,
    dry_run: bool,
) -> None:
    import timm_layeract  # noqa: F401  (registers the models)

    from ..training.dry_run import dry_run as describe
    from ..training.run import train as run

    recipe = options.load_recipe(start.recipes)
    if dry_run:
        typer.echo(describe(start, recipe, options.data))
    else:
        run(start, recipe, options.data, given(output), data_name=options.data_name, execution=execution)
