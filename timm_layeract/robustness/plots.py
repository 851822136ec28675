"""Pictures of a robustness result."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from torch import Tensor

from .._utils.plotting import new_figure, save_figure
from ..checkpoints.tables import SIGNIFICANT
from .corruptions.constants import SEVERITIES
from .records import ReportedTest, Robustness

__all__ = ["plot_categories", "plot_forest", "plot_severities", "plot_strip"]


def plot_categories(result: Robustness, path: Path) -> None:
    """Bars of each model: clean, total and the categories, with the deviation over seeds."""
    columns = list(result["models"][0]["mean"])
    figure, axes = new_figure(1, 1, 1.4 * len(columns) + 1, 3.6)
    panel: Axes = axes[0, 0]
    width = 0.8 / len(result["models"])
    for index, model in enumerate(result["models"]):
        where = np.arange(len(columns)) + (index - (len(result["models"]) - 1) / 2) * width
        deviation = [model["std"][key] for key in columns] if model["std"] else None
        heights = [model["mean"][key] for key in columns]
        bars = panel.bar(where, heights, width, yerr=deviation, label=model["name"], capsize=2)
        panel.bar_label(bars, fmt="%.1f", fontsize=6, padding=1)
    panel.set_xticks(range(len(columns)), columns)
    panel.set_ylabel("accuracy, %")
    panel.set_ylim(0, 100)
    panel.legend(fontsize=7, ncols=2, loc="lower left")
    save_figure(figure, path)


def plot_forest(model: str, comparisons: Sequence[ReportedTest], path: Path) -> None:
    """Differences of one model to others with their 95 % intervals, a panel each; hypotheses are black.

    Args:
        model: Its name.
        comparisons: As `significance.compare_models` gives them.
        path: PNG to write.
    """
    others = list(dict.fromkeys(row["against"] for row in comparisons))
    measures = list(dict.fromkeys(row["measure"] for row in comparisons))
    figure, axes = new_figure(1, len(others), 3.6, 0.24 * len(comparisons) / len(others) + 1.2)
    for panel, other in zip(axes[0], others, strict=True):
        panel.axvline(0, color="grey", linewidth=0.8)
        for row in (row for row in comparisons if row["against"] == other):
            low, high = row["interval"]
            colour = "black" if row.get("hypothesis") else "tab:blue"
            height = measures.index(row["measure"])
            panel.plot((low, high), (height, height), color=colour, linewidth=1.2)
            filled = colour if row["p_holm"] < SIGNIFICANT else "white"
            panel.plot(row["difference"], height, color=colour, marker="o", markersize=5, markerfacecolor=filled)
        panel.set_yticks(range(len(measures)), measures, fontsize=7)
        panel.invert_yaxis()
        panel.set_title(f"{model}\nagainst {other}", fontsize=8)
        panel.set_xlabel(f"difference in points, 95 % interval; filled: p < {SIGNIFICANT}", fontsize=7)
    save_figure(figure, path)


def plot_severities(result: Robustness, path: Path) -> None:
    """Accuracy against severity, a panel for each corruption; severity 0 is clean."""
    names = list(result["sets"])
    columns = min(5, len(names))
    figure, axes = new_figure(-(-len(names) // columns), columns, 2.4, 2.0)
    for panel in axes.flat[len(names) :]:
        panel.set_axis_off()
    for panel, name in zip(axes.flat, names, strict=False):
        for model in result["models"]:
            runs = np.array([[run["clean"], *run["accuracy"][name]] for run in model["runs"]])
            panel.plot((0, *SEVERITIES), runs.mean(axis=0), marker="o", markersize=3, label=model["name"])
        panel.set_title(name, fontsize=8)
        panel.set_ylim(0, 100)
        panel.tick_params(labelsize=7)
    axes.flat[0].legend(fontsize=5)
    figure.supxlabel("severity", fontsize=8)
    figure.supylabel("accuracy, %", fontsize=8)
    save_figure(figure, path)


def plot_strip(
    pictures: Mapping[str, Tensor], predictions: Mapping[str, Sequence[str]], label: str, path: Path
) -> None:
    """One image under each corruption, with what each model takes it for.

    Args:
        pictures: Title -> uint8 ``(3, H, W)``.
        predictions: Model -> name of its class for each picture, in their order.
        label: The right class; others are red.
        path: PNG to write.
    """
    columns = min(7, len(pictures))
    figure, axes = new_figure(-(-len(pictures) // columns), columns, 1.5, 1.6 + 0.16 * len(predictions))
    for panel in axes.flat:
        panel.set_axis_off()
    for index, (title, picture) in enumerate(pictures.items()):
        panel = axes.flat[index]
        panel.imshow(picture.permute(1, 2, 0).numpy())
        panel.set_title(title, fontsize=7)
        for line, (model, classes) in enumerate(predictions.items()):
            colour = "black" if classes[index] == label else "tab:red"
            position = (0.5, -0.04 - 0.11 * line)
            panel.text(
                *position, f"{model}: {classes[index]}", color=colour, fontsize=5, ha="center", va="top",
                transform=panel.transAxes,
            )  # fmt: skip
    save_figure(figure, path)
