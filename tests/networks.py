"""Small networks for the tests of evaluation, quick and with an oracle in scikit-learn; and the embedded ones."""

import timm
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn

from timm_layeract.checkpoints.manifest import SMP_CONFIG, read_manifest
from timm_layeract.smp.by_name import load_by_name


class NearestMean(nn.Module):
    """Logits of 8x8 digits: minus the squared distance to the mean of each class."""

    def __init__(self, seed: int = 0, classes: int = 10) -> None:
        super().__init__()
        data = load_digits()
        rows = torch.from_numpy(data.images[600 + 300 * seed : 900 + 300 * seed] / 16).float()
        labels = torch.from_numpy(data.target[600 + 300 * seed : 900 + 300 * seed])
        means = torch.stack([rows[labels == digit].mean(0) for digit in range(classes)])
        self.means = nn.Parameter(means)
        self.act = nn.ReLU()
        self.pretrained_cfg = {"input_size": (3, 8, 8), "mean": (0.0,) * 3, "std": (1.0,) * 3}

    def forward(self, images: Tensor) -> Tensor:
        grey = self.act(images.mean(1))
        return -(grey[:, None] - self.means).square().sum((2, 3))


def first() -> nn.Module:
    return NearestMean(0)


def second() -> nn.Module:
    return NearestMean(1)


def third() -> nn.Module:
    return NearestMean(2)


def three_classes() -> nn.Module:
    return NearestMean(classes=3)


def nothing() -> str:
    return "no network"


def load_embedded(name: str) -> nn.Module:
    """A network of the manifest, by the way that its users take."""
    if SMP_CONFIG in read_manifest()[name]:
        return load_by_name(name)
    return timm.create_model(name, pretrained=True)
