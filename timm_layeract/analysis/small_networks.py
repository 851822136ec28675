"""Handwritten digits, and the small networks that the papers train on them.

Offline the digits are those that a package ships; a Hub data set (``ylecun/mnist``) or a folder gives all.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..data.digits import DIGITS, digit_splits
from ..data.sources import load_splits
from ..models.resnet_cifar import CIFAR_ACTIVATIONS
from ..registry import activation_factory, list_activations

__all__ = ["Digits", "all_activations", "load_digits", "mlp", "train_small"]

PIXELS, CLASSES = 28 * 28, 10
LayerFactory = Callable[[int], nn.Module]


@dataclass(frozen=True)
class Digits:
    """Digits as vectors.

    Attributes:
        train: float32 ``(N, 784)`` in [0, 1].
        train_labels: int64 ``(N,)``.
        test: float32 ``(M, 784)``.
        test_labels: int64 ``(M,)``.
        name: What results call them.
    """

    train: Tensor
    train_labels: Tensor
    test: Tensor
    test_labels: Tensor
    name: str


def load_digits(source: str | None = None, progress: bool = True) -> Digits:
    """The digits of `data.digits`, or those of a source as `load_splits` takes it.

    Raises:
        UserError: As `load_splits`.
    """
    splits = digit_splits() if source is None else load_splits(source, (28, 28), progress=progress)
    train, test = splits["train"], splits.get("test", splits["train"])
    vectors = [split.__getitems__(range(len(split)))[0].float().mean(1).flatten(1) / 255 for split in (train, test)]
    return Digits(vectors[0], train.labels, vectors[1], test.labels, source or DIGITS)


def all_activations() -> list[str]:
    """The papers' element-wise activations and every one that is registered here, by name."""
    return list(dict.fromkeys([*CIFAR_ACTIVATIONS.values(), *list_activations()]))


def mlp(widths: Sequence[int], activation: str, norm: LayerFactory | None = None) -> nn.Sequential:
    """Layers of these widths, each followed by the norm, if any, and the activation; then ten outputs."""
    layers: list[nn.Module] = []
    for before, after in zip((PIXELS, *widths), widths, strict=False):
        layers += [nn.Linear(before, after), *([norm(after)] if norm else []), activation_factory(activation)()]
    return nn.Sequential(*layers, nn.Linear(widths[-1], CLASSES))


def train_small(
    build: Callable[[], nn.Sequential],
    digits: Digits,
    epochs: int,
    seed: int,
    each_epoch: Callable[[int, nn.Sequential], None] | None = None,
    batch_size: int = 128,
) -> nn.Sequential:
    """Train as the paper does on MNIST (v3, appendix H): SGD, momentum 0.9, rate 0.01, a tenth at epochs 40 and 60.

    Args:
        build: Makes the network, after the seed is set.
        digits: Trained on `train`.
        epochs: The paper's are 80.
        seed: Seed of initialisation and order.
        each_epoch: Called with the number of whole epochs and the network in evaluation mode.
        batch_size: The paper gives none.

    Returns:
        The network in evaluation mode.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = build()
        network(digits.train[:2])  # shapes lazy modules
        optimizer = torch.optim.SGD(network.parameters(), lr=0.01, momentum=0.9, weight_decay=1e-4)
        schedule = torch.optim.lr_scheduler.MultiStepLR(optimizer, [40, 60])
        for epoch in range(1, epochs + 1):
            network.train()
            for rows in torch.randperm(len(digits.train)).split(batch_size):
                optimizer.zero_grad()
                F.cross_entropy(network(digits.train[rows]), digits.train_labels[rows]).backward()
                optimizer.step()
            schedule.step()
            network.eval()
            if each_epoch:
                each_epoch(epoch, network)
    return network
