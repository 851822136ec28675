"""Does the loss of a training sample go with the sum of its activation scales? (v1, section 4.1, Figure 2)"""

from collections.abc import Sequence
from functools import partial
from itertools import product
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .._utils.files import write_json
from .._utils.plotting import new_figure, save_figure
from .._utils.progress import tracked
from ..registry import activation_factory
from .small_networks import load_digits, mlp, train_small

__all__ = ["activation_scale", "balance", "correlation"]

LAYERS = 4


def activation_scale(inputs: Tensor, outputs: Tensor) -> Tensor:
    """s of ``a = y s`` (v3, equation 2), from y and a; 0 where y is 0."""
    return torch.where(inputs == 0, 0.0, outputs / torch.where(inputs == 0, 1.0, inputs))


@torch.no_grad()
def correlation(network: nn.Sequential, images: Tensor, labels: Tensor) -> float:
    """Pearson's correlation over samples of the summed activation scale and the loss, 0 where either is constant."""
    values, total = images, torch.zeros(len(images))
    for layer in network[:-1]:
        outputs = layer(values)
        if not isinstance(layer, nn.Linear):
            total += activation_scale(values, outputs).sum(1)
        values = outputs
    losses = F.cross_entropy(network[-1](values), labels, reduction="none")
    pair = torch.stack([total, losses]).double()
    return float(torch.corrcoef(pair)[0, 1]) if bool((pair.std(1) > 0).all()) else 0.0


def balance(
    output: str | Path,
    activations: Sequence[str] = (),
    widths: Sequence[int] = (20, 40, 100),
    runs: int = 5,
    epochs: int = 80,
    data: str | None = None,
    progress: bool = True,
) -> dict[str, dict[str, list[list[float]]]]:
    """Train four-layer networks and follow the correlation over the epochs; write balance.json and balance.png.

    Args:
        output: Folder to write to.
        activations: Names; relu, silu, lasilu and lahardsilu if empty.
        widths: Units of every layer, a network for each.
        runs: Seeds 11, 22, ... for each.
        epochs: Passes over the digits.
        data: Source of the digits, see `load_digits`.
        progress: Show a progress bar.

    Returns:
        What balance.json holds: activation -> width -> a list over the runs of correlations after each epoch.

    Raises:
        UserError: No such activation or data.
    """
    names = list(activations) or ["relu", "silu", "lasilu", "lahardsilu"]
    for name in names:
        activation_factory(name)
    digits = load_digits(data, progress)
    found: dict[str, dict[str, list[list[float]]]] = {name: {str(width): [] for width in widths} for name in names}
    jobs = list(product(names, widths, range(runs)))
    for name, width, run in tracked(jobs, "training", progress):
        followed: list[float] = []

        def follow(epoch: int, network: nn.Sequential, followed: list[float] = followed) -> None:
            followed.append(correlation(network, digits.train, digits.train_labels))

        train_small(partial(mlp, [width] * LAYERS, name), digits, epochs, 11 * (run + 1), follow)
        found[name][str(width)].append(followed)
    write_json(Path(output) / "balance.json", {"data": digits.name, "layers": LAYERS, "activations": found})
    figure, axes = new_figure(len(widths), len(names), 2.6, 2.0)
    for column, (name, by_width) in enumerate(found.items()):
        for row, (units, curves) in enumerate(by_width.items()):
            panel = axes[row, column]
            for curve in curves:
                panel.plot(range(1, len(curve) + 1), curve, linewidth=0.9)
            panel.axhline(0, color="grey", linewidth=0.6)
            panel.set_ylim(-1, 1)
            panel.set_title(f"{name}, {units}x{LAYERS}", fontsize=8)
    figure.supxlabel("epoch", fontsize=8)
    figure.supylabel("correlation of summed activation scale and training loss", fontsize=8)
    save_figure(figure, Path(output) / "balance.png")
    return found
