"""Measure everything and write results/*.csv, then the report: ``python -m benchmarks.run`` or ``make benchmark``."""

import csv
import io
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import torch
import typer
from rich.console import Console
from rich.progress import Progress

from timm_layeract._utils.writing import write_whole
from timm_layeract.allocator import reuse_freed_memory

from . import report
from .measure import Row, where
from .networks import networks
from .operations import growth, operations
from .sites import sites
from .training import training

RESULTS = Path(__file__).parent / "results"


def run(
    repetitions: Annotated[int, typer.Option(help="Times that each case is timed, after two to warm up.")] = 15,
    threads: Annotated[int, typer.Option(help="CPU threads.")] = 2,
    compiled: Annotated[bool, typer.Option(help="Time torch.compile of the plain definition too.")] = True,
    authors: Annotated[
        Path | None, typer.Option(help="The authors' published module, a file with a class LA_SiLU.", exists=True)
    ] = None,
    only: Annotated[str, typer.Option(help="operations, networks, sites, growth or training; all if left out.")] = "",
) -> None:
    """Time LayerAct and what it competes with, interleaved in one process; write CSV, tables and plots.

    Close other programs first. Takes about ten minutes on two cores.
    """
    torch.set_num_threads(threads)
    reuse_freed_memory()
    levels = {
        "operations": lambda progress: operations(authors, compiled, repetitions, progress),
        "networks": lambda progress: networks(repetitions, progress),
        "sites": lambda progress: sites(repetitions, progress),
        "growth": lambda progress: growth(repetitions, progress),
        "training": lambda progress: training(repetitions, progress),
    }
    if only and only not in levels:
        raise typer.BadParameter(f"--only takes {', '.join(levels)}.")
    for name, level in levels.items():
        if only in ("", name):
            with Progress(console=Console(stderr=True), transient=True) as progress:
                found = list(level(progress))
            write(found, RESULTS / f"{'gpu' if torch.cuda.is_available() else 'cpu'}_{name}.csv")
    report.write()


def write(found: list[Row], path: Path) -> None:
    """Put the rows into a CSV, whole or not at all."""
    place = where()
    lines = [{**place, **asdict(row)} for row in found]
    with io.StringIO(newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(lines[0]))
        writer.writeheader()
        writer.writerows(lines)
        write_whole(path, file.getvalue())
    typer.echo(f"{len(lines)} rows in {path}")


if __name__ == "__main__":
    typer.run(run)
