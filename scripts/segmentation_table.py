"""Repeats the LayerAct paper's table 14 (v3): U-Net and UNet++ with ReLU, SiLU and LA-SiLU on images with masks.

`python scripts/segmentation_table.py RUNS --data DATA --epochs 20 --seeds 3` trains what RUNS does not hold yet,
one run a network and seed, and prints the table; without `--data` it only prints that of the runs there.
"""

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from timm_layeract.allocator import reuse_freed_memory
from timm_layeract.errors import UserError
from timm_layeract.files import mean_and_deviation
from timm_layeract.training.recipe import load_recipe
from timm_layeract.training.run import train

NETWORKS = {"unet_nobn": "U-Net", "unetplusplus_nobn": "UNet++ without DSV", "unetplusplus_dsv_nobn": "UNet++ with DSV"}
ACTIVATIONS = {"": "ReLU", "_silu": "SiLU", "_lasilu": "LA-SiLU"}


def train_missing(runs: Path, data: str, seeds: int, recipe: str, epochs: int | None) -> None:
    """Train every network with the seeds 1 to `seeds`, going on with runs that were interrupted."""
    for seed in range(1, seeds + 1):
        for network in NETWORKS:
            for activation in ACTIVATIONS:
                name = f"{network}{activation}"
                output = runs / f"{name}-seed{seed}"
                if not (output / "result.json").exists():
                    print(f"{name}, seed {seed}", flush=True)
                    train(name, load_recipe(recipe, epochs=epochs, seed=seed), data, output, resume=True)


def read_results(runs: Path) -> dict[str, list[dict[str, Any]]]:
    """Results of finished runs by model, of one recipe and data set.

    Raises:
        UserError: No runs, or runs that cannot be compared.
    """
    results = [json.loads(path.read_text()) for path in sorted(runs.glob("*/result.json"))]
    if not results:
        raise UserError(f"{runs} holds no finished run; give --data to train.")
    by_model: dict[str, list[dict[str, Any]]] = {}
    for result in results:
        for part in ("recipe", "data"):
            differing = [key for key, value in results[0][part].items() if result[part].get(key) != value]
            if set(differing) - {"seed"}:
                raise UserError(f"The runs in {runs} differ in {part} {differing[0]}: they cannot be compared.")
        by_model.setdefault(result["model"], []).append(result)
    return by_model


def table(results: dict[str, list[dict[str, Any]]]) -> str:
    """Test IoU in percent, mean ± standard deviation over seeds, as a Markdown table with a line on its origin."""
    rows = [f"| activation | {' | '.join(NETWORKS.values())} |", "|---" * (len(NETWORKS) + 1) + "|"]
    for suffix, activation in ACTIVATIONS.items():
        cells = [_cell(results.get(f"{network}{suffix}", [])) for network in NETWORKS]
        rows.append(f"| {activation} | {' | '.join(cells)} |")
    one = next(iter(results.values()))[0]
    rows += [
        "",
        f"Test IoU in %, mean ± standard deviation over seeds (number of seeds), {one['data']['test_images']} images "
        f"of {one['data']['name']}; recipe `{one['recipe']['name']}`, {one['recipe']['epochs']} epochs.",
    ]
    return "\n".join(rows)


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
            train_missing(runs, data, seeds, recipe, epochs)
        typer.echo(table(read_results(runs)))
    except UserError as error:
        typer.echo(f"segmentation_table: {error}", err=True)
        raise typer.Exit(2) from None


if __name__ == "__main__":
    typer.run(main)
