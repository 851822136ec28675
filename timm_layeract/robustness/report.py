"""Tables of a robustness result: CSV of every number, Markdown as the papers' tables."""

from collections.abc import Iterator
from pathlib import Path

from .._utils.files import csv_text, markdown_table
from .._utils.writing import write_whole
from ..checkpoints.tables import cells_over_seeds
from .corruptions.constants import SEVERITIES, category_of
from .measure import ALEXNET, corruption_errors
from .records import Robustness

__all__ = ["write_csv", "write_markdown"]


def write_csv(result: Robustness, path: Path) -> None:
    """One row for each network, corruption and severity; severity 0 is clean."""
    head = ["model", "source", "seed", "category", "corruption", "severity", "accuracy", "images", "set"]
    write_whole(path, csv_text([head, *_rows(result)], end="\r\n"))


def _rows(result: Robustness) -> Iterator[list[object]]:
    data = result["data"]
    for model in result["models"]:
        for run in model["runs"]:
            of = [model["name"], run["source"], run["seed"]]
            yield [*of, "clean", "clean", 0, run["clean"], data["images"], data["sha256"]]
            for name, values in run["accuracy"].items():
                for severity, value, images in zip(SEVERITIES, values, result["sets"][name], strict=True):
                    row = [category_of(name), name, severity, value, data["images"], images]
                    yield [*of, *row]


def summary_table(result: Robustness) -> str:
    """Clean, total and categories of each model, the mean over its seeds with the deviation where there are several."""
    errors = corruption_errors(result)
    calibrated = list(result["models"][0].get("calibration_error", ()))
    named = [*result["models"][0]["mean"], *(f"ECE {each}" for each in calibrated), *(["mCE"] if errors else [])]
    rows = []
    for model in result["models"]:
        mce = [f"{errors[model['name']]['mCE']:.1f}"] if errors else []
        ece = [f"{model['calibration_error'][each]:.2f}" for each in calibrated]
        rows.append(
            [f"`{model['name']}`", str(len(model["runs"])), *cells_over_seeds(model["mean"], model["std"]), *ece, *mce]
        )
    return markdown_table(["model", "seeds", *named], rows)


def corruption_table(result: Robustness) -> str:
    """Accuracy of each corruption, mean over severities and seeds."""
    models = result["models"]
    rows = []
    for name in result["sets"]:
        means = [[sum(run["accuracy"][name]) / len(SEVERITIES) for run in model["runs"]] for model in models]
        rows.append([category_of(name), name, *(f"{sum(values) / len(values):.2f}" for values in means)])
    return markdown_table(["category", "corruption", *(f"`{model['name']}`" for model in models)], rows)


def measured_on(result: Robustness) -> str:
    """The images and corruptions of a result: ``10,000 images of CIFAR-10 (JPEG), corruptions ...``."""
    data = result["data"]
    made = "released corruptions"
    if data["corruptions"] == "regenerated":
        made = f"corruptions regenerated with the strengths of {data['strengths']}"
    return f"{data['images']:,} images of {data['name']}, {made}, 5 severities each"


def provenance(result: Robustness) -> str:
    """What was measured, in a few sentences."""
    lines = [f"Top-1 accuracy in percent on {measured_on(result)}."]
    if "common" in result["models"][0]["mean"]:
        lines.append("common is the mean over the fifteen corruptions of public leaderboards, total over all nineteen.")
    if "calibration_error" in result["models"][0]:
        lines.append("ECE is the expected calibration error in percent, over 15 bins of confidence.")
    if any(len(model["runs"]) == 1 for model in result["models"]):
        lines.append("One seed of a model says nothing about the spread over seeds.")
    if result["baseline"]:
        against = "AlexNet's published errors" if result["baseline"] == ALEXNET else f"`{result['baseline']}`"
        lines.append(f"mCE is relative to {against}: 100 is as many errors.")
    return " ".join(lines)


def write_markdown(result: Robustness, path: Path) -> None:
    """The report that people read, beside its plots."""
    versions = ", ".join(f"{name} {value}" for name, value in result["versions"].items())
    parts = [
        "# Robustness",
        provenance(result),
        summary_table(result),
        "![accuracy by category](categories.png)",
        "![accuracy against severity](severities.png)",
        "## By corruption",
        corruption_table(result),
        "![one image under every corruption](strip.png)",
        f"{result['date']}, {result['device']}, {result['precision']}, {versions}. "
        "Every number is in robustness.csv, the hash of every set in robustness.json.",
    ]
    write_whole(path, "\n\n".join(parts) + "\n")
