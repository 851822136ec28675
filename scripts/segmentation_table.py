"""Repeats the LayerAct paper's table 14 (v3): U-Net and UNet++ with ReLU, SiLU and LA-SiLU on images with masks.

`python scripts/segmentation_table.py RUNS --data DATA` trains what RUNS does not hold yet, as `layeract sweep` does,
puts the results side by side, as `layeract compare` does, and prints the table; without `--data` only that of the runs
that are there.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from timm_layeract._utils.files import markdown_table, mean_and_deviation
from timm_layeract.allocator import reuse_freed_memory
from timm_layeract.errors import UserError
from timm_layeract.training.compare import compare_runs, comparison_provenance
from timm_layeract.training.recipe import load_recipe
from timm_layeract.training.sweep import plan, sweep

NETWORKS = {"unet_nobn": "U-Net", "unetplusplus_nobn": "UNet++ without DSV", "unetplusplus_dsv_nobn": "UNet++ with DSV"}
ACTIVATIONS = {"": "ReLU", "_silu": "SiLU", "_lasilu": "LA-SiLU"}


def table(comparison: Mapping[str, Any]) -> str:
    """What `compare_runs` gives as a Markdown table like the paper's, with a line on its origin."""
    scores = {model["model"]: [run["test"]["iou"] for run in model["runs"]] for model in comparison["models"]}
    rows = [
        [activation, *(_cell(scores.get(f"{network}{suffix}", [])) for network in NETWORKS)]
        for suffix, activation in ACTIVATIONS.items()
    ]
    return (
        f"{markdown_table(['activation', *NETWORKS.values()], rows)}\n\n"
        f"Test IoU in %, in brackets the number of seeds. {comparison_provenance(comparison)}"
    )


def _cell(scores: list[float]) -> str:
    return f"{mean_and_deviation(scores)} ({len(scores)})" if scores else "-"


def main(
    runs: Annotated[Path, typer.Argument(help="Folder of the runs, one folder each.")],
    data: Annotated[str | None, typer.Option(help="Data set to train on what is missing; none only prints.")] = None,
    data_name: Annotated[str | None, typer.Option(help="What results call the data.")] = None,
    seeds: Annotated[int, typer.Option(min=1, help="Runs of each network, with seeds 11, 22, ...")] = 3,
    recipe: Annotated[
        str, typer.Option(help="Recipe, by name or file; segmentation_paper is the paper's.")
    ] = "segmentation_short",
    output: Annotated[
        Path | None, typer.Option(help="JSON file for the results; RUNS/table14.json if left out.")
    ] = None,
) -> None:
    """Train the networks of the paper's table 14 that RUNS does not hold yet, and print the table."""
    reuse_freed_memory()
    try:
        if data is not None:
            models = [f"{network}{activation}" for network in NETWORKS for activation in ACTIVATIONS]
            sweep(plan(models, range(11, 11 * seeds + 1, 11), load_recipe(recipe), data, runs, data_name))
        finished = sorted(path.parent for path in runs.glob("*/result.json"))
        if not finished:
            raise UserError(f"{runs} holds no finished run; give --data to train.")
        typer.echo(table(compare_runs(finished, output or runs / "table14.json")))
    except UserError as error:
        typer.echo(f"segmentation_table: {error}", err=True)
        raise typer.Exit(2) from None


if __name__ == "__main__":
    typer.run(main)
