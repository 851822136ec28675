"""What happens at each activation of any network: mean activations, fluctuation, likeness of samples; by hooks."""

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from typing_extensions import TypedDict

from .._utils.files import write_json
from .._utils.names import dataset_name
from .._utils.plotting import new_figure, save_figure
from .._utils.progress import tracked
from ..errors import UserError
from ..networks import Network
from ..robustness.robustness import load_test_set
from ..watch import watched_copy
from .distributions import Distribution, describe, draw_boxes
from .one_layer import NOISES, fluctuation
from .small_networks import load_digits, mlp, train_small

__all__ = ["alike", "describe_sites", "layers", "likeness", "similarity"]


class SiteFigures(TypedDict):
    """An activation: `means` of each channel, and `fluctuation` by noise, each for ``input`` and ``output``."""

    means: dict[str, Distribution]
    fluctuation: dict[str, dict[str, Distribution]]


class Likeness(TypedDict):
    """Mean cosine similarity of samples of one class, and of two."""

    within: float
    across: float


def layers(
    models: Sequence[str], data: str, output: str | Path, *, limit: int = 200, seed: int = 11, progress: bool = True
) -> dict[str, dict[str, SiteFigures]]:
    """Mean activations and fluctuation at each activation of loaded networks; write layers.json and layers.png.

    Args:
        models: Sources as `load_networks` takes them.
        data: Test images, as `load_test_split` takes them.
        output: Folder to write to.
        limit: Number of images, which run at once.
        seed: Seed of the noise.
        progress: Show progress bars.

    Returns:
        What layers.json holds: model -> path -> ``means`` (of each channel) and ``fluctuation`` by noise (of each
        sample, a mean over the elements so that layers compare), each for ``input`` and ``output``.

    Raises:
        UserError: Anything that is not there or does not fit; a network without activation modules.
    """
    networks, clean = load_test_set(models, (), data, limit, progress)
    images = clean.images.float() / 255
    found = {}
    for network in tracked(networks, "networks", progress):
        found[network.label] = describe_sites(network, images, seed)
    write_json(Path(output) / "layers.json", {"data": dataset_name(data), "images": len(images), "models": found})
    _plot_layers(found, Path(output) / "layers.png")
    return found


@torch.no_grad()
def describe_sites(network: Network, images: Tensor, seed: int) -> dict[str, SiteFigures]:
    """`layers` of one network: path -> ``means`` and ``fluctuation``."""
    sites: dict[str, SiteFigures] = {}

    def watch(path: str, module: nn.Module, inputs: Tensor, output: Tensor) -> None:
        sides = {"input": inputs, "output": output}
        dims = [dim for dim in range(inputs.ndim) if dim != 1]
        sites[path] = {
            "means": {side: describe(values.mean(dims)) for side, values in sides.items()},
            "fluctuation": {},
        }
        for mean, std in NOISES:
            generator = torch.Generator().manual_seed(seed)
            moved = fluctuation(module, inputs, mean, std, generator) / inputs[0].numel()
            described = {side: describe(values) for side, values in zip(sides, moved, strict=True)}
            sites[path]["fluctuation"][f"N({mean:g}, {std:g})"] = described

    watched_copy(network.module, watch)(images.to(next(network.module.parameters()).device))
    return sites


def likeness(features: Tensor, labels: Tensor) -> tuple[float, float]:
    """Mean cosine similarity of two samples of one class, and of two classes.

    Args:
        features: ``(N, ...)``.
        labels: ``(N,)``.

    Returns:
        (within classes, across classes); nan where there is no such pair.
    """
    unit = F.normalize(features.flatten(1), dim=1)
    cosine = unit @ unit.T
    same = labels[:, None] == labels
    pairs = ~torch.eye(len(labels), dtype=torch.bool)
    return float(cosine[same & pairs].mean()), float(cosine[~same].mean())


def similarity(
    output: str | Path,
    models: Sequence[str] = (),
    data: str | None = None,
    *,
    limit: int = 200,
    epochs: int = 20,
    seed: int = 11,
    progress: bool = True,
) -> dict[str, dict[str, Likeness]]:
    """How alike samples become, layer by layer (v4's argument against LayerNorm); write similarity.json and .png.

    Args:
        output: Folder to write to.
        models: Sources as `load_networks` takes them. If there are none, four-layer networks are trained on digits:
            BatchNorm + ReLU, LayerNorm + ReLU, BatchNorm + LA-SiLU.
        data: Test images of the models, or source of the digits.
        limit: Number of images, which run at once.
        epochs: Epochs of that training.
        seed: Seed of that training.
        progress: Show progress bars.

    Returns:
        What similarity.json holds: model -> path -> ``within`` and ``across`` classes, mean cosine similarity of the
        activations' outputs.

    Raises:
        UserError: Anything that is not there or does not fit; models without data.
    """
    if models and data is None:
        raise UserError("Models need --data, the images that their representations are of.")
    found = {}
    if models:
        networks, clean = load_test_set(models, (), str(data), limit, progress)
        images, labels = clean.images.float() / 255, clean.labels
        for network in networks:
            found[network.label] = alike(network.module, images, labels)
    else:
        digits = load_digits(data, progress)
        small = {
            "BatchNorm, ReLU": ("relu", nn.BatchNorm1d),
            "LayerNorm, ReLU": ("relu", nn.LayerNorm),
            "BatchNorm, LA-SiLU": ("lasilu", nn.BatchNorm1d),
        }
        for name, (activation, norm) in tracked(list(small.items()), "training", progress):
            trained = train_small(partial(mlp, [100] * 4, activation, norm), digits, epochs, seed)
            found[name] = alike(trained, digits.test[:limit], digits.test_labels[:limit])
    write_json(Path(output) / "similarity.json", {"data": data, "images": limit, "models": found})
    figure, axes = new_figure(1, 2, 4.5, 3.2)
    kinds: tuple[Literal["within", "across"], ...] = ("within", "across")
    for panel, which in zip(axes[0], kinds, strict=True):
        for name, sites in found.items():
            panel.plot(range(1, len(sites) + 1), [site[which] for site in sites.values()], marker="o", label=name)
        panel.set_title(f"cosine similarity {which} classes", fontsize=9)
        panel.set_xlabel("activation")
        panel.xaxis.get_major_locator().set_params(integer=True)
        panel.legend(fontsize=6)
    save_figure(figure, Path(output) / "similarity.png")
    return found


@torch.no_grad()
def alike(network: nn.Module, images: Tensor, labels: Tensor) -> dict[str, Likeness]:
    """`likeness` of the output of every activation, by path."""
    found: dict[str, Likeness] = {}

    def watch(path: str, module: nn.Module, inputs: Tensor, output: Tensor) -> None:
        within, across = likeness(output.cpu(), labels)
        found[path] = {"within": within, "across": across}

    watched_copy(network, watch)(images.to(next(network.parameters()).device))
    return found


def _plot_layers(found: Mapping[str, Mapping[str, SiteFigures]], path: Path) -> None:
    tallest = max(len(sites) for sites in found.values())
    figure, axes = new_figure(len(found), 3, 4.5, 0.2 * tallest + 0.8)
    for row, (model, sites) in enumerate(found.items()):
        means = {site: each["means"]["output"] for site, each in sites.items()}
        draw_boxes(axes[row, 0], means, f"{model}: mean output of each channel")
        for column, noise in enumerate(next(iter(sites.values()))["fluctuation"], start=1):
            moved = {site: each["fluctuation"][noise]["output"] for site, each in sites.items()}
            draw_boxes(axes[row, column], moved, f"{noise}: fluctuation of the output")
    save_figure(figure, path)
