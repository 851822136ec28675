"""What an adaptation came to, for a person: report.md and report.png. Imports matplotlib."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean
from typing import Any

from ..data.corruptions.constants import SEVERITIES
from ..figures import new_figure, save_figure
from ..files import markdown_table, write_whole

__all__ = ["adaptations_table", "write_report"]

Result = Mapping[str, Any]
UNITS = {"top1": "accuracy", "iou": "IoU"}


def write_report(result: Result, folder: Path) -> str:
    """Write report.md and report.png beside result.json; returns the text."""
    plot_report(result, folder / "report.png")
    text = _text(result)
    write_whole(folder / "report.md", f"{text}\n\n![stages and noise](report.png)\n")
    return f"{text}\n\nModel in {folder / 'model'}, report in {folder / 'report.md'}"


def _text(result: Result) -> str:
    adaptation, monitor = result["adaptation"], result["monitor"]
    figure = f"{'agreement with the original, ' if adaptation['unlabelled'] else ''}{UNITS[monitor]}, %"
    stages = [(stage["stage"], f"{stage[monitor]:.2f}") for stage in adaptation["stages"]]
    noise = adaptation["noise"]
    rows = [("none", *(f"{noise['without'][name]:.2f}" for name in ("original", "adapted")), "")]
    for corruption, found in noise["corruptions"].items():
        before, after = (mean(found[name]) for name in ("original", "adapted"))
        rows.append((corruption, f"{before:.2f}", f"{after:.2f}", f"{after - before:+.2f}"))
    parts = [
        f"# {result['started_from']} adapted to {adaptation['to']}: {result['model']}",
        f"Held out, {figure} ({result['data']['validation_images']} images of {result['data']['name']}):",
        markdown_table(("stage", UNITS[monitor]), stages),
        f"Under noise, {figure}, mean over five severities ({noise['images']} images, {noise['split']}):",
        markdown_table(("noise", "original", "adapted", "difference"), rows),
    ]
    if result["test"]:
        before, after = adaptation["test_before"][monitor], result["test"][monitor]
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
    left.plot(names, [stage[monitor] for stage in stages[1:]], marker="o", label=adaptation["to"])
    left.axhline(stages[0][monitor], color="grey", linestyle=":", label="original")
    left.tick_params(axis="x", rotation=30)
    left.set(ylabel=f"held out, {UNITS[monitor]}, %")
    for name, style in (("original", {"color": "grey", "linestyle": ":"}), ("adapted", {})):
        curves = [found[name] for found in noise["corruptions"].values()]
        values = [noise["without"][name], *map(mean, zip(*curves, strict=True))]
        right.plot((0, *SEVERITIES), values, marker="o", label=adaptation["to"] if name == "adapted" else name, **style)
    right.set(xlabel="severity of the noise", ylabel=f"{UNITS[monitor]}, %")
    for panel in (left, right):
        panel.grid(alpha=0.3)
        panel.legend()
    save_figure(figure, path)


def adaptations_table(results: Sequence[Result]) -> str:
    """Several adaptations side by side, as a Markdown table.

    Args:
        results: What each run's result.json holds; with a test split.
    """
    head = ("network", "data", "to", "epochs", "distilled", "before", "after", "noise before", "noise after")
    rows = []
    for result in results:
        adaptation, monitor = result["adaptation"], result["monitor"]
        noise = [
            mean(value for found in adaptation["noise"]["corruptions"].values() for value in found[name])
            for name in ("original", "adapted")
        ]
        figures = (adaptation["test_before"][monitor], result["test"][monitor], *noise)
        rows.append(
            (
                f"`{result['started_from']}`",
                result["data"]["name"],
                adaptation["to"],
                str(result["recipe"]["epochs"]),
                "yes" if adaptation["distill"] else "no",
                *(f"{figure:.2f}" for figure in figures),
            )
        )
    return markdown_table(head, rows)
