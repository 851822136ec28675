"""`layeract adapt`: one call into `adaptation`, imported when it runs."""

from pathlib import Path
from typing import Annotated

import typer

from ..training.options import Adaptation, Execution, RunOptions
from .options import NAMES, output_folder, with_options


@with_options("task")  # which the network decides
def adapt(
    model: Annotated[str, typer.Argument(help=f"Trained network: {NAMES}.")],
    adaptation: Adaptation,
    options: RunOptions,
    execution: Execution,
    output: Annotated[Path, output_folder("New folder for the model and the report.")],
) -> None:
    """Turn a trained network into one with another activation, in a few epochs.

    Swaps the activations, re-estimates BatchNorm's statistics, fine-tunes (3 epochs by the recipe adapt; with --epochs
    0 not at all), and reports accuracy before and after, clean and under noise. The data has the network's own classes;
    the weights end in OUTPUT/model.

    Example: `layeract adapt resnet20.cifar10_quick --to lasilu -d uoft-cs/cifar10 -o runs/adapted`
    """
    from ..adaptation.adapt import adapt_by_options

    adapt_by_options(model, adaptation, options, output, execution)
