"""Draws a run: figures over the epochs, on training and held-out data."""

from pathlib import Path

from matplotlib.ticker import MaxNLocator

from .._utils.plotting import new_figure, save_figure
from .history import EpochRecord

__all__ = ["plot_curves"]


def plot_curves(history: list[EpochRecord], best: int, monitor: str, path: Path) -> None:
    """Write a picture of loss and monitored figure over epochs, the best epoch (from 0) marked."""
    figure, panels = new_figure(1, 2, 4.5, 3.5)
    epochs = [record.epoch + 1 for record in history]
    for axes, name in zip(panels[0], ("loss", monitor), strict=True):
        axes.plot(epochs, [record.train[name] for record in history], label="training (augmented)")
        axes.plot(epochs, [record.val[name] for record in history], label="held out")
        axes.axvline(best + 1, color="grey", linewidth=0.8, linestyle=":", label=f"best, epoch {best + 1}")
        axes.set(xlabel="epoch", ylabel=name)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(alpha=0.3)
        axes.legend()
    save_figure(figure, path)
