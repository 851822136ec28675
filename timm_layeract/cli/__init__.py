"""The `layeract` command: one file a group of subcommands, each subcommand one call into the package."""

import sys
from typing import NoReturn

import typer

from ..errors import UserError
from .hub import convert, download, info, list_, publish
from .measures import convergence, r_score
from .training import embed, finetune, recipes, runs, train

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    help="Layer-level activations for timm: train and fine-tune networks that run them, get and publish trained ones.",
)
for command in (train, finetune, recipes, runs, embed, list_, info, download, convert, publish, r_score, convergence):
    app.command(command.__name__.rstrip("_").replace("_", "-"))(command)


def main() -> NoReturn:
    """Run the command line: a user's mistake is one line on standard error and exit code 2."""
    try:
        app(standalone_mode=True)
    except UserError as error:
        typer.echo(f"layeract: {error}", err=True)
        sys.exit(2)
    sys.exit(0)
