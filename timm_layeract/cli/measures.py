"""`layeract r-score`. Thin: one call into `measures`, imported when it runs."""

from pathlib import Path
from typing import Annotated

import typer


def r_score(
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for r_score.csv and r_score.png.")],
    act: Annotated[
        list[str] | None,
        typer.Option("--act", "-a", help="Activation, by name; may be repeated. Those of figure 2 if left out."),
    ] = None,
    lowest: Annotated[float, typer.Option("--from", help="Smallest standard deviation of the input.")] = 0.01,
    highest: Annotated[float, typer.Option("--to", help="Largest standard deviation of the input.")] = 10.0,
    points: Annotated[int, typer.Option(help="How many between them, evenly on a logarithmic scale.")] = 61,
) -> None:
    """Integrate the R score of activations over the spread of their input, and draw it.

    ln(Var[f(x)] / (Var[x] E[f'(x)^2])) for normal x: 0 is ideal, ReLU stays at -0.383.

    Example: `layeract r-score -o figures -a relu -a silu -a mish`.
    """
    import timm_layeract  # noqa: F401  (registers the activations)

    from ..measures.r_score import report_r_scores

    report_r_scores(output, act or None, lowest, highest, points, typer.echo)
