"""The shape of LA-SiLU and LA-HardSiLU, which follows the distribution of their input (v3, Figures 4 and 5)."""

from pathlib import Path

import torch
from typing_extensions import TypedDict

from .._utils.files import write_json
from .._utils.plotting import new_figure, save_figure
from ..registry import activation_factory

__all__ = ["DISTRIBUTIONS", "shapes"]

DISTRIBUTIONS = ((0.0, 1.0), (0.0, 5.0), (-5.0, 1.0), (5.0, 1.0))
"""Mean and deviation of the activation's input, as the paper's."""
DRAWN = ("lasilu", "lahardsilu")
POINTS = 512


class Curve(TypedDict):
    """Points of a function."""

    input: list[float]
    output: list[float]


def shapes(output: str | Path) -> dict[str, dict[str, Curve]]:
    """Draw output against input for the four distributions; write shapes.json and shapes.png.

    Returns:
        What shapes.json holds: activation -> ``N(mean, deviation)`` -> ``input`` and ``output``, 512 points each at
        even steps of probability.
    """
    levels = (torch.arange(POINTS, dtype=torch.float64) + 0.5) / POINTS
    normal = torch.special.ndtri(levels)
    found: dict[str, dict[str, Curve]] = {}
    figure, axes = new_figure(len(DRAWN), len(DISTRIBUTIONS), 2.6, 2.4)
    for row, name in enumerate(DRAWN):
        for column, (mean, std) in enumerate(DISTRIBUTIONS):
            inputs = mean + std * normal
            outputs = activation_factory(name)()(inputs[None])[0]
            label = f"N({mean:g}, {std:g})"
            found.setdefault(name, {})[label] = {"input": inputs.tolist(), "output": outputs.tolist()}
            panel = axes[row, column]
            panel.plot(inputs, inputs, color="lightgrey", linewidth=1)
            panel.plot(inputs, outputs)
            panel.set_title(f"{name}, input {label}", fontsize=8)
            panel.tick_params(labelsize=7)
    write_json(Path(output) / "shapes.json", found)
    save_figure(figure, Path(output) / "shapes.png")
    return found
