"""Repeats the LayerAct paper's table 14 (v3): U-Net and UNet++ with ReLU, SiLU and LA-SiLU on images with masks.

`python scripts/segmentation_table.py RUNS --data DATA --epochs 20 --seeds 3` trains what RUNS does not hold yet, as
`layeract sweep` does, and prints the table; without `--data` it only prints that of the runs there.
"""

from pathlib import Path
from typing import Annotated, Any

import typer

from timm_layeract.allocator import reuse_freed_memory
from timm_layeract.errors import UserError
from timm_layeract.files import markdown_table, mean_and_deviation
from timm_layeract.manifest import training_length
from timm_layeract.training.compare import OF_THE_MODEL
from timm_layeract.training.recipe import load_recipe
from timm_layeract.training.runs import check_alike, read_finished
from timm_layeract.training.sweep import sweep

NETWORKS = {"unet_nobn": "U-Net", "unetplusplus_nobn": "UNet++ without DSV", "unetplusplus_dsv_nobn": "UNet++ with DSV"}
ACTIVATIONS = {"": "ReLU", "_silu": "SiLU", "_lasilu": "LA-SiLU"}


def read_results(runs: Path) -> dict[str, list[dict[str, Any]]]:
    """Results of finished runs by model, of one recipe and data set.

    Raises:
        UserError: No runs, or runs that differ in more than model and seed.
    """
    finished = sorted(path.parent for path in runs.glob("*/result.json"))
    if not finished:
        raise UserError(f"{runs} holds no finished run; give --data to train.")
    results = [read_finished(run) for run in finished]
    check_alike(finished, results, OF_THE_MODEL)
    by_model: dict[str, list[dict[str, Any]]] = {}
    for result in results:
        by_model.setdefault(result["model"], []).append(result)
    return by_model


def table(results: dict[str, list[dict[str, Any]]]) -> str:
    """Test IoU in percent, mean ± standard deviation over seeds, as a Markdown table with a line on its origin."""
    rows = [
        [activation, *(_cell(results.get(f"{network}{suffix}", [])) for network in NETWORKS)]
        for suffix, activation in ACTIVATIONS.items()
    ]
    one = next(iter(results.values()))[0]
    return (
        f"{markdown_table(['activation', *NETWORKS.values()], rows)}\n\n"
        f"Test IoU in %, mean ± standard deviation over seeds (number of seeds), {one['data']['test_images']} images "
        f"of {one['data']['name']}; recipe `{one['recipe']['name']}`, {training_length(one['recipe'])}."
    )


def _cell(results: list[dict[str, Any]]) -> str:
    scores = [result["test"]["iou"] for result in results]
    if not scores:
        return "-"
    return f"{mean_and_deviation(scores)} ({len(scores)})"


def main(
    runs: Annotated[Path, typer.Argument(help="Folder of the runs, one folder each.")],
    data: Annotated[str | None, typer.Option(help="Data set to train on what is missing; none only prints.")] = None,
    seeds: Annotated[int, typer.Option(min=1, help="Runs of each network, with seeds 1, 2, ...")] = 3,
    recipe: Annotated[str, typer.Option(help="Recipe, by name or file.")] = "segmentation_paper",
    epochs: Annotated[int | None, typer.Option(min=1, help="Instead of the recipe's.")] = None,
) -> None:
    """Train the networks of the paper's table 14 that RUNS does not hold yet, and print the table."""
    reuse_freed_memory()
    try:
        if data is not None:
            models = [f"{network}{activation}" for network in NETWORKS for activation in ACTIVATIONS]
            sweep(models, range(1, seeds + 1), load_recipe(recipe, epochs=epochs), data, runs)
        typer.echo(table(read_results(runs)))
    except UserError as error:
        typer.echo(f"segmentation_table: {error}", err=True)
        raise typer.Exit(2) from None


if __name__ == "__main__":
    typer.run(main)
