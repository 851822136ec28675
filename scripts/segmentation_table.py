"""Repeats the LayerAct paper's table 14 (v3): U-Net and UNet++ with ReLU, SiLU and LA-SiLU on images with masks.

`python scripts/segmentation_table.py RUNS --data DATA --epochs 20 --seeds 1 2 3` trains what RUNS does not hold yet,
one run a network and seed, and prints the table; without `--data` it only prints that of the runs there.
"""

import argparse
import json
from pathlib import Path
from typing import Any

from timm_layeract.errors import UserError
from timm_layeract.files import mean_and_deviation
from timm_layeract.training.recipe import load_recipe
from timm_layeract.training.run import train

NETWORKS = {"unet_nobn": "U-Net", "unetplusplus_nobn": "UNet++ without DSV", "unetplusplus_dsv_nobn": "UNet++ with DSV"}
ACTIVATIONS = {"": "ReLU", "_silu": "SiLU", "_lasilu": "LA-SiLU"}


def train_missing(runs: Path, data: str, seeds: list[int], recipe: str, epochs: int | None) -> None:
    """Train every network with every seed, going on with runs that were interrupted."""
    for seed in seeds:
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


def main() -> None:
    """Train if asked to, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, help="folder of the runs, one folder each")
    parser.add_argument("--data", help="data set to train on what is missing")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--recipe", default="segmentation_paper")
    parser.add_argument("--epochs", type=int, help="instead of the recipe's")
    arguments = parser.parse_args()
    try:
        if arguments.data:
            train_missing(arguments.runs, arguments.data, arguments.seeds, arguments.recipe, arguments.epochs)
        print(table(read_results(arguments.runs)))
    except UserError as error:
        parser.error(str(error))


if __name__ == "__main__":
    main()
