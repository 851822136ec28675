"""Puts the results of finished runs of several models side by side, as one JSON."""

from pathlib import Path

from .._utils.files import markdown_table, mean_and_deviation, write_json
from .._utils.records import check_record
from ..checkpoints.manifest import FIGURES, monitor_of, training_length
from ..checkpoints.records import ComparedModel, ComparedModels, SeedScores
from ..errors import UserError
from .runs import check_alike, read_environment, read_finished

__all__ = ["OF_THE_MODEL", "compare_runs", "comparison_provenance", "comparison_table"]

OF_THE_MODEL = ("model", "activations", "started_from")  # keys of a result


def compare_runs(runs: list[Path], path: Path) -> ComparedModels:
    """Collect what runs came to that differ in model and seed alone, by model and its start, and write it.

    Args:
        runs: Folders of finished runs, of one seed or several a model.
        path: JSON file; replaced where there is one.

    Returns:
        What the file holds: ``recipe`` (without seed), ``data``, ``processes``, and ``models``: for each its name,
        activations, the weights it started from and ``runs``, each with seed, best epoch, figures and surroundings.

    Raises:
        UserError: A run that is not finished, has no test figures, or differs from the first in more than model and
            seed; two runs of a model with the same seed or with other activations.
    """
    results = [read_finished(run) for run in runs]
    check_alike(runs, results, OF_THE_MODEL)
    models: dict[tuple[str, str | None], ComparedModel] = {}
    for run, result in zip(runs, results, strict=True):
        if result["test"] is None:
            raise UserError(f"{run} has no test figures, as its data has no test split.")
        own: ComparedModel = {
            "model": result["model"],
            "activations": result["activations"],
            "started_from": result["started_from"],
            "runs": [],
        }
        entry = models.setdefault((result["model"], result["started_from"]), own)
        seed = result["recipe"]["seed"]
        if entry["activations"] != result["activations"]:
            raise UserError(f"{run} is called {result['model']} like another run, but has other activations.")
        if any(other["seed"] == seed for other in entry["runs"]):
            raise UserError(f"Two of these runs train {result['model']} with seed {seed}.")
        scores: SeedScores = {
            "seed": seed,
            "best_epoch": result["best_epoch"],
            "validation": result["validation"],
            "test": result["test"],
        }
        entry["runs"].append({**scores, **read_environment(run)})
    recipe = {key: value for key, value in results[0]["recipe"].items() if key != "seed"}
    shared = {"recipe": recipe, "data": results[0]["data"], "processes": results[0]["processes"]}
    comparison = check_record(ComparedModels, {**shared, "models": list(models.values())}, str(path))
    write_json(path, comparison)
    return comparison


def comparison_table(comparison: ComparedModels) -> str:
    """Test and held-out figures of each model, means over its seeds with their deviation, as a Markdown table."""
    rows = []
    for model in comparison["models"]:
        figures = [[run["test"] for run in model["runs"]], [run["validation"] or {} for run in model["runs"]]]
        scores = [[each[monitor_of(each)] for each in part] for part in figures]
        seeds = ", ".join(str(run["seed"]) for run in model["runs"])
        start = f" from `{model['started_from']}`" if model["started_from"] else ""
        rows.append([f"`{model['model']}`{start}", *map(mean_and_deviation, scores), seeds])
    figure = FIGURES[monitor_of(comparison["models"][0]["runs"][0]["test"])]
    return markdown_table(["model", f"test {figure}, %", "held out, %", "seeds"], rows)


def comparison_provenance(comparison: ComparedModels) -> str:
    """What was trained and on what, in a sentence or two."""
    recipe, data = comparison["recipe"], comparison["data"]
    lines = [
        f"Recipe `{recipe['name']}`, {training_length(recipe)}, on {data['name']}: {data['train_images']:,} to train "
        f"on, {data['validation_images']:,} held out, {data['test_images']:,} to test on. Mean ± deviation over seeds."
    ]
    if any(len(model["runs"]) == 1 for model in comparison["models"]):
        lines.append("One seed says nothing about the spread over seeds.")
    return " ".join(lines)
