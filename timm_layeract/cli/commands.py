"""The commands of `layeract`, in the order in which its help shows them."""

from collections.abc import Callable
from importlib.metadata import version
from typing import Annotated

import typer

from .adaptation import adapt
from .analyze import app as analyze
from .evaluation import corrupt, evaluate, robustness, shifts, significance
from .hub import convert, download, info, list_, publish
from .measures import convergence, r_score
from .predict import predict
from .training import compare, embed, finetune, recipes, runs, sweep, train

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
)
PANELS: dict[str, tuple[Callable[..., None], ...]] = {
    "Train": (train, finetune, adapt, sweep, recipes, runs, compare),
    "Trained networks": (list_, info, download, convert, predict, publish, embed),
    "Measure": (evaluate, robustness, corrupt, significance, shifts, r_score, convergence),
}
for panel, commands in PANELS.items():
    for command in commands:
        app.command(command.__name__.rstrip("_").replace("_", "-"), rich_help_panel=panel)(command)
app.add_typer(analyze, name="analyze", rich_help_panel="Measure")


def print_version(asked: bool) -> None:
    """Print the versions that a report of a fault should name, and exit."""
    if asked:
        typer.echo(f"timm-layeract {version('timm-layeract')} (timm {version('timm')}, torch {version('torch')})")
        raise typer.Exit


@app.callback()
def common(
    debug: Annotated[
        bool, typer.Option("--debug", help="Show the traceback of what goes wrong, not one line.")
    ] = False,
    asked: Annotated[
        bool, typer.Option("--version", callback=print_version, is_eager=True, help="Print versions and exit.")
    ] = False,
) -> None:
    """Layer-level activations for timm: train, tune and use networks that run them, get and publish trained ones."""
    # `--debug` is read by `cli.main`, which is there before typer is.
