"""What an adaptation came to, for a person: report.md and report.png."""

import json
from collections.abc import Sequence
from pathlib import Path
from statistics import mean
from typing import Literal, cast

from .._utils.files import markdown_table, mean_and_deviation
from .._utils.plotting import new_figure, save_figure
from .._utils.writing import write_whole
from ..checkpoints.records import Result, Stage
from ..checkpoints.tables import NETWORKS, noise_table
from ..robustness.corruptions.constants import SEVERITIES

__all__ = ["adaptations_table", "write_report"]

Compared = Literal["original", "adapted"]
MONITOR_NAMES = {"top1": "accuracy", "iou": "IoU"}
GAUSSIAN_SEVERITY = 3  # of five: a deviation of 0.08 in images of CIFAR's size


def write_report(result: Result, folder: Path) -> str:
    """Write report.md and report.png beside result.json; returns the text."""
    plot_report(result, folder / "report.png")
    text = _text(result)
    write_whole(folder / "report.md", f"{text}\n\n![stages and noise](report.png)\n")
    return f"{text}\n\nModel in {folder / 'model'}, report in {folder / 'report.md'}"


def _text(result: Result) -> str:
    adaptation, monitor = result["adaptation"], result["monitor"]
    figure = f"{'agreement with the original, ' if adaptation['unlabelled'] else ''}{MONITOR_NAMES[monitor]}, %"
    stages = [(stage["stage"], f"{_stage_figure(stage, monitor):.2f}") for stage in adaptation["stages"]]
    noise = adaptation["noise"]
    parts = [
        f"# {result['started_from']} adapted to {adaptation['to']}: {result['model']}",
        f"Held out, {figure} ({result['data']['validation_images']} images of {result['data']['name']}):",
        markdown_table(("stage", MONITOR_NAMES[monitor]), stages),
        f"Under noise, {figure}, mean over five severities ({noise['images']} images, {noise['split']}):",
        noise_table(noise),
    ]
    if result["test"]:
        before, after = (_test(result, name) for name in NETWORKS)
        parts.append(f"Test, {figure}: {before:.2f} before, {after:.2f} after ({result['test']['images']} images).")
    cost = f"Cost: {adaptation['statistics_batches']} batches of {result['recipe']['batch_size']} without gradient"
    if result["recipe"]["epochs"]:
        cost += f", {result['recipe']['epochs']} epochs of {result['data']['train_images']} images"
        cost += ", the original network's forward pass included" if adaptation["distill"] else ""
    parts.append(f"{cost}.")
    return "\n\n".join(parts)


def plot_report(result: Result, path: Path) -> None:
    """Held-out figure by stage, and the mean figure under noise by severity, of both networks."""
    adaptation, monitor = result["adaptation"], result["monitor"]
    figure, panels = new_figure(1, 2, 4.5, 3.5)
    stages, noise = adaptation["stages"], adaptation["noise"]
    left, right = panels[0]
    names = [stage["stage"] for stage in stages[1:]]
    left.plot(names, [_stage_figure(stage, monitor) for stage in stages[1:]], marker="o", label=adaptation["to"])
    left.axhline(_stage_figure(stages[0], monitor), color="grey", linestyle=":", label="original")
    left.tick_params(axis="x", rotation=30)
    left.set(ylabel=f"held out, {MONITOR_NAMES[monitor]}, %")
    for name in NETWORKS:
        style = {"color": "grey", "linestyle": ":"} if name == "original" else {}
        curves = [found[name] for found in noise["corruptions"].values()]
        values = [noise["without"][name], *map(mean, zip(*curves, strict=True))]
        right.plot((0, *SEVERITIES), values, marker="o", label=adaptation["to"] if name == "adapted" else name, **style)
    right.set(xlabel="severity of the noise", ylabel=f"{MONITOR_NAMES[monitor]}, %")
    for panel in (left, right):
        panel.grid(alpha=0.3)
        panel.legend()
    save_figure(figure, path)


def adaptations_table(results: Sequence[Result]) -> str:
    """Several adaptations side by side, as a Markdown table; those that differ in the seed alone are one row.

    Args:
        results: What each run's result.json holds; with a test split.
    """
    groups: dict[str, list[Result]] = {}
    for result in results:
        groups.setdefault(_all_but_seed(result), []).append(result)
    head = ("network", "data", "to", "epochs", "distilled", "seeds", *REPORTED)
    return markdown_table(head, [_row(group) for group in groups.values()])


def _all_but_seed(result: Result) -> str:
    """What runs of one row have in common; values that are empty count as those that older runs do not know."""
    recipe = {key: value for key, value in result["recipe"].items() if value and key != "seed"}
    chosen = {key: result["adaptation"][key] for key in ("to", "distill", "unlabelled", "statistics_batches")}
    return json.dumps([result["started_from"], result["data"]["name"], recipe, chosen], sort_keys=True)


def _row(runs: Sequence[Result]) -> tuple[str, ...]:
    """Figures before and after, the latter with their deviation over several seeds."""
    first = runs[0]
    changes = []
    for figure in REPORTED.values():
        before, after = ([figure(run, name) for run in runs] for name in NETWORKS)
        changes.append(f"{mean(before):.2f} → {mean_and_deviation(after)}")
    return (
        f"`{first['started_from']}`",
        first["data"]["name"],
        first["adaptation"]["to"],
        str(first["recipe"]["epochs"]),
        "yes" if first["adaptation"]["distill"] else "no",
        str(len(runs)),
        *changes,
    )


def _stage_figure(stage: Stage, monitor: str) -> float:
    return cast(dict[str, float], stage)[monitor]


def _test(run: Result, network: Compared) -> float:
    figures = run["adaptation"]["test_before"] if network == "original" else run["test"]
    return (figures or {})[run["monitor"]]


def _gaussian(run: Result, network: Compared) -> float:
    return run["adaptation"]["noise"]["corruptions"]["gaussian_noise"][network][GAUSSIAN_SEVERITY - 1]


def _noise(run: Result, network: Compared) -> float:
    return mean(value for found in run["adaptation"]["noise"]["corruptions"].values() for value in found[network])


REPORTED = {"test": _test, f"Gaussian noise, severity {GAUSSIAN_SEVERITY}": _gaussian, "all noise": _noise}
