"""Figures without matplotlib's global state, as PNG."""

from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from .writing import writing

__all__ = ["new_figure", "save_figure"]


def new_figure(rows: int, columns: int, width: float, height: float) -> tuple[Figure, np.ndarray]:
    """A figure with ``(rows, columns)`` panels of this size in inches; ``[row, column]`` gives one."""
    figure = Figure(figsize=(columns * width, rows * height), layout="constrained")
    return figure, figure.subplots(rows, columns, squeeze=False)


def save_figure(figure: Figure, path: Path) -> None:
    """Write a PNG that is the same for the same data."""
    with writing(path) as file:
        figure.savefig(file, format="png", dpi=110, metadata={"Software": None})
