"""`layeract r-score`, `convergence`. Thin: each is one call into `analysis`, imported when it runs."""

from pathlib import Path
from typing import Annotated

import typer

from .options import DigitData, output_folder, parse_numbers


def r_score(
    output: Annotated[Path, output_folder("Folder for r_score.csv and r_score.png.")],
    act: Annotated[
        list[str] | None,
        typer.Option("--act", "-a", help="Activation, by name; may be repeated. Those of figure 2 if left out."),
    ] = None,
    lowest: Annotated[
        float, typer.Option("--from", min=1e-6, max=1e6, help="Smallest standard deviation of the input.")
    ] = 0.01,
    highest: Annotated[
        float, typer.Option("--to", min=1e-6, max=1e6, help="Largest standard deviation of the input.")
    ] = 10.0,
    points: Annotated[
        int, typer.Option(min=2, max=10**4, help="How many between them, evenly on a logarithmic scale.")
    ] = 61,
) -> None:
    """Integrate the R score of activations over the spread of their input, and draw it.

    ln(Var[f(x)] / (Var[x] E[f'(x)^2])) for normal x: 0 is ideal, ReLU stays at -0.383.

    Example: `layeract r-score -o figures -a relu -a silu -a mish`.
    """
    import timm_layeract  # noqa: F401  (registers the activations)

    from ..analysis.r_score import report_r_scores

    report_r_scores(output, act or None, lowest, highest, points, typer.echo)


def convergence(
    output: Annotated[Path, output_folder("Folder for table, figure and finished runs.")],
    data: DigitData = None,
    act: Annotated[
        list[str] | None,
        typer.Option("--act", "-a", help="Suffix of a lenet5_ name, or relu; may be repeated. Those of table 1."),
    ] = None,
    runs: Annotated[int, typer.Option(min=1, max=1000, help="Seeds of each activation.")] = 25,
    epochs: Annotated[int, typer.Option(min=1, max=10**6, help="Passes over the training images.")] = 50,
    lr: Annotated[float | None, typer.Option("--lr", help="Learning rate of SGD, the same for all.")] = None,
    batch_size: Annotated[int | None, typer.Option(min=1, max=10**6, help="Images in one step.")] = None,
    threshold: Annotated[
        float, typer.Option(min=0, max=100, help="Held-out top-1, in percent, that a run is to reach.")
    ] = 98.0,
    at: Annotated[str, typer.Option(help="Epochs to count the runs below it at, with commas.")] = "5,10,15,30,50",
) -> None:
    """Train LeNet-5 in several activations and count the runs that have not converged, epoch by epoch.

    Finished runs are kept: call it again to go on. The test split is not read.

    Example: `layeract convergence -d ylecun/mnist -o convergence -a relu -a nrelu --runs 5 --epochs 15 --at 5,10,15`.
    """
    import timm_layeract  # noqa: F401  (registers the models)

    from ..analysis.convergence import RECIPE, TABLE_1, ConvergenceSettings, compare_convergence

    changes = {
        key: value for key, value in dict(epochs=epochs, lr=lr, batch_size=batch_size).items() if value is not None
    }
    settings = ConvergenceSettings(
        tuple(act or TABLE_1), tuple(range(runs)), RECIPE.replace(**changes), threshold, parse_numbers("--at", at)
    )
    compare_convergence(data, output, settings, report=typer.echo)
