"""`layeract analyze ...`: the papers' analyses. Thin: each is one call into `analysis`."""

from pathlib import Path
from typing import Annotated

import typer

from .evaluation import Limit, Models, Seeds
from .options import Data, DigitData, output_folder, parse_names, parse_numbers

app = typer.Typer(
    help="The papers' analyses, each written as JSON and PNG. Example: `layeract analyze shapes -o analyses`",
)
Folder = Annotated[Path, output_folder("Folder for the JSON and PNG files.")]
Names = Annotated[str | None, typer.Option(help="Only these activations, with commas.")]
ImageCount = Annotated[int, typer.Option("--limit", min=2, help="Number of images, which run at once.")]


@app.command("one-layer")
def one_layer(
    output: Folder,
    data: DigitData = None,
    activations: Names = None,
    epochs: Annotated[str, typer.Option(help="Epochs after which to look, with commas.")] = "1,40",
) -> None:
    """Mean activations and fluctuation under noise, one layer of 512 units (v3, Figures 2, 3, 6, 7).

    Example: `layeract analyze one-layer -o analyses --activations relu,silu,lasilu`
    """
    from ..analysis.one_layer import one_layer

    one_layer(output, parse_names("--activations", activations), data, parse_numbers("--epochs", epochs))
    _written(output)


@app.command()
def shapes(output: Folder) -> None:
    """LA-SiLU and LA-HardSiLU for four distributions of their input (v3, Figures 4, 5).

    Example: `layeract analyze shapes -o analyses`
    """
    from ..analysis.shapes import shapes

    shapes(output)
    _written(output)


@app.command()
def balance(
    output: Folder,
    data: DigitData = None,
    activations: Names = None,
    runs: Annotated[int, typer.Option(min=1, max=1000, help="Seeds for each network.")] = 5,
    epochs: Annotated[int, typer.Option(min=1, max=10**6, help="Passes over the digits.")] = 80,
) -> None:
    """Correlation of the summed activation scale with the training loss (v1, Figure 2).

    Example: `layeract analyze balance -o analyses --runs 3`
    """
    from ..analysis.balance import balance

    balance(output, parse_names("--activations", activations), runs=runs, epochs=epochs, data=data)
    _written(output)


@app.command()
def layers(models: Models, data: Data, output: Folder, limit: ImageCount = 200) -> None:
    """Mean activations and fluctuation under noise at each activation of any networks.

    Example: `layeract analyze layers resnet20 resnet20_lasilu.cifar10_quick -d uoft-cs/cifar10 -o analyses`
    """
    from ..analysis.by_layer import layers

    layers(models, data, output, limit=limit)
    _written(output)


@app.command()
def similarity(
    output: Folder,
    models: Annotated[list[str] | None, typer.Argument(help="As for `layeract robustness`; none trains three.")] = None,
    data: Annotated[str | None, typer.Option("--data", "-d", help="Test images of the models, or MNIST.")] = None,
    limit: ImageCount = 200,
) -> None:
    """How alike samples of one class, and of two, become layer by layer (v4).

    Without models, three small networks are trained on digits: BatchNorm, LayerNorm, and BatchNorm with LA-SiLU.

    Example: `layeract analyze similarity -o analyses`
    """
    from ..analysis.by_layer import similarity

    similarity(output, models or (), data, limit=limit)
    _written(output)


@app.command()
def losses(models: Models, data: Data, output: Folder, seeds: Seeds = None, limit: Limit = None) -> None:
    """Spread of the loss over samples (v1, Table 5).

    Example: `layeract analyze losses resnet20 resnet20_lasilu.cifar10_quick -d uoft-cs/cifar10 -o analyses`
    """
    from ..analysis.training_curves import losses

    losses(models, data, output, seeds=parse_numbers("--seeds", seeds), limit=limit)
    _written(output)


@app.command()
def curves(runs: Annotated[list[Path], typer.Argument(help="Folders of `layeract train`.")], output: Folder) -> None:
    """Loss and accuracy over the epochs of training runs (v1, Figures 3, 4).

    Example: `layeract analyze curves runs/relu_11 runs/lasilu_11 -o analyses`
    """
    from ..analysis.training_curves import curves

    curves(runs, output)
    _written(output)


def _written(output: Path) -> None:
    typer.echo(f"Written to {output}.")
