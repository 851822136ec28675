"""Mean activations and activation fluctuation of a network with one layer of 512 units (v3, Figures 2, 3, 6, 7)."""

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn
from typing_extensions import TypedDict

from .._utils.files import write_json
from .._utils.plotting import new_figure, save_figure
from .._utils.progress import tracked
from ..errors import UserError
from ..registry import activation_factory
from .distributions import Distribution, describe, draw_boxes
from .small_networks import all_activations, load_digits, mlp, train_small

__all__ = ["NOISES", "fluctuation", "one_layer"]

LAYER_UNITS = 512
Sides = dict[str, Distribution]
"""Distributions of the ``input`` and the ``output`` of an activation."""


class Units(TypedDict):
    """A trained layer: accuracy in percent, mean of each unit by epoch, fluctuation of each sample by noise."""

    accuracy: float
    means: dict[str, Sides]
    fluctuation: dict[str, Sides]


class OneLayer(TypedDict):
    """What one_layer.json holds."""

    data: str
    units: int
    seed: int
    activations: dict[str, Units]


NOISES = ((0.0, 0.5), (1.0, 0.5))
"""Mean and deviation of the noise, as the paper's."""


def fluctuation(activation: nn.Module, inputs: Tensor, mean: float, std: float, generator: torch.Generator) -> Tensor:
    """How far noise moves the input and the output of an activation (v3, Definitions 2.3 and 3.2).

    Args:
        activation: Any, layer-level ones too.
        inputs: y, ``(N, ...)``.
        mean: Mean of the Gaussian noise that is added to y.
        std: Its standard deviation.
        generator: Generator of the noise.

    Returns:
        ``(2, N)``: the sums of the absolute changes of each sample's input and output.
    """
    noisy = inputs + torch.normal(mean, std, inputs.shape, generator=generator).to(inputs)
    # .forward: no hook of a network that is being analysed may see this
    changes = (noisy - inputs, activation.forward(noisy) - activation.forward(inputs))
    return torch.stack([change.abs().flatten(1).sum(1) for change in changes])


def one_layer(
    output: str | Path,
    activations: Sequence[str] = (),
    data: str | None = None,
    epochs: Sequence[int] = (1, 40),
    seed: int = 11,
    progress: bool = True,
) -> OneLayer:
    """Train the network with each activation; write one_layer.json, means.png and fluctuation.png.

    Args:
        output: Folder to write to.
        activations: Names; the papers' and all registered ones if empty.
        data: Source of the digits, see `load_digits`.
        epochs: When the mean activations are taken; the fluctuation is that after the last.
        seed: Seed of training and noise.
        progress: Show a progress bar.

    Returns:
        What one_layer.json holds: for each activation, ``means`` by epoch (of every unit over the test digits) and
        ``fluctuation`` by noise (of every test digit, summed over the units), each for ``input`` and ``output``, and
        ``accuracy``.

    Raises:
        UserError: No such activation or data, no epoch.
    """
    names = list(activations) or all_activations()
    for name in names:
        activation_factory(name)
    if not epochs or min(epochs) < 1:
        raise UserError("--epochs takes numbers from 1 on, with commas.")
    digits = load_digits(data, progress)
    found: dict[str, Units] = {}
    for name in tracked(names, "training", progress):
        means: dict[str, Sides] = {}

        @torch.no_grad()
        def take_means(epoch: int, network: nn.Sequential, means: dict[str, Sides] = means) -> None:
            if epoch in epochs:
                inputs = network[0](digits.test)
                sides = {"input": inputs, "output": network[1](inputs)}
                means[str(epoch)] = {side: describe(values.mean(0)) for side, values in sides.items()}

        network = train_small(partial(mlp, [LAYER_UNITS], name), digits, max(epochs), seed, take_means)
        with torch.no_grad():
            inputs = network[0](digits.test)
            moved = {}
            for mean, std in NOISES:
                generator = torch.Generator().manual_seed(seed)
                sums = fluctuation(network[1], inputs, mean, std, generator)
                moved[f"N({mean:g}, {std:g})"] = {"input": describe(sums[0]), "output": describe(sums[1])}
            hits = network(digits.test).argmax(1) == digits.test_labels
        found[name] = {"accuracy": 100 * float(hits.float().mean()), "means": means, "fluctuation": moved}
    result: OneLayer = {"data": digits.name, "units": LAYER_UNITS, "seed": seed, "activations": found}
    write_json(Path(output) / "one_layer.json", result)
    _plot(found, "means", "after epoch {}: mean {} of each unit", Path(output) / "means.png")
    _plot(found, "fluctuation", "{}: fluctuation of each sample's {}", Path(output) / "fluctuation.png")
    return result


def _plot(found: Mapping[str, Units], key: Literal["means", "fluctuation"], title: str, path: Path) -> None:
    places = list(next(iter(found.values()))[key])
    figure, axes = new_figure(len(places), 2, 5, 0.24 * len(found) + 0.8)
    for row, place in enumerate(places):
        for column, side in enumerate(("output", "input")):
            boxes = {name: each[key][place][side] for name, each in found.items()}
            draw_boxes(axes[row, column], boxes, title.format(place, side))
    save_figure(figure, path)
