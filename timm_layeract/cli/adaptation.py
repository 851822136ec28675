"""`layeract adapt`: one call into `adaptation`, imported when it runs."""

from pathlib import Path
from typing import Annotated

import typer

from ..training.options import Adaptation, Execution, RunOptions
from .options import NETWORK_NAMES, DryRun, given, output_folder, with_options


@with_options("task", "num_classes")  # which the network decides
def adapt(
    model: Annotated[str, typer.Argument(help=f"Trained network: {NETWORK_NAMES}.")],
    adaptation: Adaptation,
    options: RunOptions,
    execution: Execution,
    output: Annotated[Path | None, output_folder("New folder for the model and the report.")] = None,
    dry_run: DryRun = False,
) -> None:
    """Turn a trained network into one with another activation, in a few epochs.

    Swaps the activations, re-estimates BatchNorm's statistics, fine-tunes (3 epochs by the recipe adapt; with --epochs
    0 not at all), and reports accuracy before and after, clean and under noise. The data has the network's own classes;
    the weights end in OUTPUT/model.

    Example: `layeract adapt resnet20.cifar10_quick --to lasilu -d uoft-cs/cifar10 -o runs/adapted`
    """
    from ..adaptation.adapt import adapt_by_options, adapt_dry_run

    if dry_run:
        typer.echo(adapt_dry_run(model, adaptation, options, execution))
    else:
        adapt_by_options(model, adaptation, options, given(output), execution)
