"""No network is born with dead channels, and those that die are found.

Every registered image network, at a fraction of its depth and width, as these repeat one block: names that differ in
nothing else are tested once.
"""

import re
from collections.abc import Iterator
from typing import Any

import pytest
import timm
import torch
import torch.nn.functional as F
from sklearn.datasets import load_sample_images
from timm.models import model_entrypoint
from torch import Tensor, nn

from timm_layeract.dead_units import dead_units
from timm_layeract.models.plain_cnn import PLAIN_ARCHITECTURES

NORMS_AND_CONVOLUTIONS = (nn.modules.conv._ConvNd, nn.modules.batchnorm._BatchNorm)
STEPS = (6, 20)
SIDE = 32  # of the images
SMALL: dict[str, dict[str, Any]] = {  # by module: arguments that make its networks small
    "resnet_cifar": dict(layers=(2, 2, 2)),
    "resnet_layeract": dict(layers=(2, 1, 1, 1), channels=(16, 32, 64, 128), num_classes=10),
    "unet_layeract": dict(width=4),
}


def small_args(name: str) -> dict[str, Any]:
    module = model_entrypoint(name).__module__.rpartition(".")[2]
    if module == "plain_cnn":
        stages = PLAIN_ARCHITECTURES[name.split("_")[0] if name.startswith(("lenet", "cnn")) else "vgg19_cifar"][
            "stages"
        ]
        narrow = [[(kernel, max(6, width // 8), padding) for kernel, width, padding in stage[:3]] for stage in stages]
        return dict(stages=narrow, hidden=(32,) if name.startswith(("lenet", "vgg")) else (), num_classes=10)
    return SMALL[module]


def cases() -> Iterator[Any]:
    """One name of each kind of network, by everything that its builder is told but depth, width and number of heads."""
    seen = set()
    for name in timm.list_models():
        entrypoint = model_entrypoint(name)
        module = entrypoint.__module__
        if not module.startswith("timm_layeract.models") or module.endswith(("perceptron", "text_rcnn")):
            continue  # those have neither convolutions nor norms
        told = re.sub(r"\blayers=\([^)]*\)|\bwidth=\d+|deep_supervision=True, ", "", str(entrypoint.__doc__))
        if told not in seen:
            seen.add(told)
            yield name


def is_norm(module: nn.Module) -> bool:
    return isinstance(module, nn.modules.batchnorm._BatchNorm)


def noise(count: int, channels: int, seed: int) -> Tensor:
    return torch.randn(count, channels, SIDE, SIDE, generator=torch.Generator().manual_seed(seed))


def photographs(count: int, channels: int, seed: int) -> Tensor:
    """Windows of two photographs that scikit-learn ships."""
    generator = torch.Generator().manual_seed(seed)
    whole = [torch.from_numpy(image.copy()).permute(2, 0, 1).float() / 255 for image in load_sample_images().images]
    windows = []
    for number in range(count):
        image = whole[number % 2]
        side, row, column = (int(torch.randint(low, 128, (1,), generator=generator)) for low in (SIDE, 0, 0))
        window = image[None, :, row : row + side, column : column + side]
        windows.append(F.interpolate(window, (SIDE, SIDE), mode="area"))
    images = (torch.cat(windows) - 0.45) / 0.25
    return images.mean(1, keepdim=True) if channels == 1 else images


def loss_of(network: nn.Module, images: Tensor, seed: int) -> Tensor:
    """Cross-entropy with random labels; of segmentation with random masks."""
    generator = torch.Generator().manual_seed(seed)
    outputs = network(images)
    if outputs.ndim == 2:
        return F.cross_entropy(outputs, torch.randint(0, outputs.shape[1], (len(images),), generator=generator))
    return F.binary_cross_entropy_with_logits(outputs, torch.rand(outputs.shape, generator=generator).round())


def without_gradient(network: nn.Module, images: Tensor) -> set[tuple[str, int]]:
    """Channels of convolutions and norms whose weights have a gradient of exactly 0."""
    network.zero_grad()
    loss_of(network, images, 1).backward()
    found = set()
    for path, module in network.named_modules():
        if ".se." in path:  # a gate of 8 channels, with a ReLU that nothing normalises for
            continue
        if isinstance(module, NORMS_AND_CONVOLUTIONS) and module.weight is not None:
            zero = (module.weight.grad == 0).flatten(1).all(1) if module.weight.ndim > 1 else module.weight.grad == 0
            found |= {(path, int(channel)) for channel in zero.nonzero()}
    return found


def train(network: nn.Module, kind: Any) -> Iterator[set[tuple[str, int]]]:
    """What has no gradient after each of `STEPS` steps of SGD."""
    channels = network.pretrained_cfg["input_size"][0]
    # without normalisation 0.05 is more than some of these bear
    rate = 0.05 if any(map(is_norm, network.modules())) else 0.01
    optimizer = torch.optim.SGD(network.parameters(), lr=rate)
    for step in range(1, max(STEPS) + 1):
        optimizer.zero_grad()
        loss_of(network, kind(4, channels, step), step).backward()
        optimizer.step()
        if step in STEPS:
            yield without_gradient(network, kind(16, channels, 0))


def bears_dead_channels(network: nn.Module) -> bool:
    """Whether ReLU reads a convolution or a linear layer that nothing normalises: some channels then die by chance."""
    has_relu = "ReLU" in str(network)
    return has_relu and (bool(getattr(network, "hidden", ())) or not any(map(is_norm, network.modules())))


@pytest.mark.parametrize("kind", [noise, photographs])
@pytest.mark.parametrize("name", list(cases()))
def test_no_channel_is_born_dead(name: str, kind: Any) -> None:
    dead: dict[int, set[tuple[str, int]]] = {}
    for seed in range(8):
        torch.manual_seed(seed)
        network = timm.create_model(name, **small_args(name))
        for step, found in zip(STEPS, train(network, kind), strict=True):
            dead[step] = found & dead.get(step, found)
        # what dies by chance lives in another draw of the weights, what is built dead does not
        if not any(dead.values()) or not bears_dead_channels(network):
            break
    assert dead == {step: set() for step in STEPS}


def test_a_zero_start_is_told_from_a_dead_one() -> None:
    """Zero weights of the last norms: dead for ever where the shortcut is 0 too, and only where ReLU follows."""
    for name, dead_channels in (("resnet20", {16, 48}), ("resnet20_silu", set())):
        torch.manual_seed(0)
        network = timm.create_model(name, **SMALL["resnet_cifar"])
        for path, module in network.named_modules():
            if path.endswith("bn2"):
                nn.init.zeros_(module.weight)
        assert {path.rpartition(".")[2] for path, _ in without_gradient(network, noise(8, 3, 0))} >= {"conv1", "conv2"}
        for found in train(network, noise):
            norms = [path for path, _ in found if path.endswith("bn2")]
            assert {norms.count(path) for path in norms} == dead_channels


def test_dead_units_are_counted() -> None:
    """A ReLU whose bias keeps it below 0, a PReLU, a layer that is frozen."""
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, 5), nn.PReLU(5))
    with torch.no_grad():
        network[0].bias[1:3] = -100.0
    network.append(nn.Linear(5, 2))
    network[5].weight.requires_grad = False
    images = torch.randn(60, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(60) % 2
    batches = [(images[:20], labels[:20]), (images[20:], labels[20:])]
    before, state = {k: v.clone() for k, v in network.state_dict().items()}, torch.get_rng_state()
    found = dead_units(network.eval(), batches, F.cross_entropy)
    assert {path: each.tolist() for path, each in found.silent.items()} == {
        "1": [False, True, True, False],
        "4": [False] * 5,
    }
    unreached = {name: int(each.sum()) for name, each in found.unreached.items()}
    assert unreached == {
        "0.weight": 2 * 27,
        "0.bias": 2,
        "3.weight": 5 * 2 * 36,
        "3.bias": 0,
        "4.weight": 0,
        "5.bias": 0,
    }
    assert found.summarise() == {"channels": 100 * 2 / 9, "parameters": 100 * 416 / (112 + 725 + 5 + 2)}
    assert not network.training
    assert torch.equal(state, torch.get_rng_state())
    assert all(torch.equal(before[key], value) for key, value in network.state_dict().items())


def test_dead_units_of_rows_of_features_and_of_no_modules() -> None:
    class Tokens(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embedding, self.unused = nn.Embedding(9, 3), nn.Linear(2, 2)
            self.fc, self.act = nn.Linear(3, 4), nn.ReLU()

        def forward(self, tokens: Tensor) -> Tensor:
            return self.act(self.fc(self.embedding(tokens))).mean(1)  # (N, T, 4): channels last

    network = Tokens()
    with torch.no_grad():
        network.fc.bias[2] = -100.0
    batch = [(torch.tensor([[1, 2], [3, 4], [5, 1]]), torch.tensor([0, 1, 3]))]
    found = dead_units(network, batch, F.cross_entropy)
    assert found.silent["act"].tolist() == [False, False, True, False]
    assert set(found.unreached) == {"unused.weight", "unused.bias", "fc.weight", "fc.bias"}
    assert found.unreached["unused.weight"].all()
    linear = dead_units(nn.Linear(2, 2), [(torch.randn(3, 2), torch.tensor([0, 1, 1]))], F.cross_entropy)
    assert linear.summarise() == {"parameters": 0.0}
