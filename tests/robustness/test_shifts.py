"""Attacks against their definitions, shifts against PIL's and numpy's, and the command."""

import json
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
import torch.nn.functional as F
from PIL import Image
from torch import nn

from tests.cli.test_cli import layeract
from tests.data.test_sources import parquet
from tests.networks import NearestMean
from timm_layeract.data.sources import ImageSplit
from timm_layeract.networks import Network, UnitInput
from timm_layeract.robustness.attacks import fgsm, pgd
from timm_layeract.robustness.shifts import measure_shifts, rotated, translated

EPSILON = 8 / 255


def test_attacks_of_a_linear_network_are_the_best_there_are() -> None:
    """The loss of two linear logits rises along the sign of their difference: the corner of the box."""
    torch.manual_seed(0)
    weight = torch.randn(2, 3 * 8 * 8)
    images, labels = torch.rand(5, 3, 8, 8), torch.tensor([0, 1, 0, 1, 1])

    def network(x: torch.Tensor) -> torch.Tensor:
        return x.flatten(1) @ weight.T

    direction = torch.sign(weight[1 - labels] - weight[labels]).view_as(images)
    expected = (images + EPSILON * direction).clamp(0, 1)
    torch.testing.assert_close(fgsm(network, images, labels, EPSILON), expected)
    torch.testing.assert_close(pgd(network, images, labels, EPSILON, steps=5), expected)
    start = torch.rand(images.shape)
    torch.testing.assert_close(pgd(network, images, labels, EPSILON, steps=10, start=start), expected)


@pytest.mark.parametrize("name", ["resnet20.cifar10_quick", "resnet20_lasilu.cifar10_quick"])
def test_attacks_of_embedded_networks(name: str) -> None:
    model = UnitInput(timm.create_model(name, pretrained=True)).eval()
    torch.manual_seed(0)
    images = torch.rand(6, 3, 32, 32)
    labels = model(images).argmax(1).detach()
    state = {key: value.clone() for key, value in model.state_dict().items()}

    def loss(x: torch.Tensor) -> float:
        return float(F.cross_entropy(model(x), labels).detach())

    start = torch.rand(images.shape)
    attacked = pgd(model, images, labels, EPSILON, steps=5, start=start)
    assert float((attacked - images).abs().max()) <= EPSILON + 1e-6
    assert float(attacked.min()) >= 0
    assert float(attacked.max()) <= 1
    assert not attacked.requires_grad
    assert loss(images) < loss(fgsm(model, images, labels, EPSILON)) < loss(attacked)
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())


def test_gradients_in_evaluation_mode_are_those_of_the_loss() -> None:
    model = UnitInput(timm.create_model("resnet20_lasilu", pretrained=True)).eval().double()
    torch.manual_seed(0)
    images = torch.rand(2, 3, 32, 32, dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(model(images)[:, 3].sum(), images)
    direction = torch.randn_like(images)
    with torch.no_grad():
        ends = [model(images + sign * 1e-5 * direction)[:, 3].sum() for sign in (1, -1)]
    assert float((gradient * direction).sum()) == pytest.approx(float(ends[0] - ends[1]) / 2e-5, rel=1e-4)


def test_rotations_agree_with_pil(digits: ImageSplit) -> None:
    for degrees in (10, 30):
        for turned, angle in zip(rotated(digits.images[:5].float(), degrees), (degrees, -degrees), strict=True):
            for image, mine in zip(digits.images, turned, strict=False):
                theirs = Image.fromarray(image[0].numpy()).rotate(angle, Image.Resampling.BILINEAR)
                assert np.abs(mine[0].numpy()[1:-1, 1:-1] - np.asarray(theirs)[1:-1, 1:-1]).max() <= 1.5


def test_translations_move_by_pixels() -> None:
    images = torch.rand(2, 3, 20, 40)
    left, right, up, down = translated(images, 10)
    assert torch.equal(left[..., :-4], images[..., 4:])
    assert torch.equal(right[..., 4:], images[..., :-4])
    assert torch.equal(up[..., :-2, :], images[..., 2:, :])
    assert torch.equal(down[..., 2:, :], images[..., :-2, :])
    assert not left[..., -4:].any()


def test_accuracy_falls_with_the_strength(digits: ImageSplit) -> None:
    runs = measure_shifts([Network.of(NearestMean(), "a")], digits.take(torch.arange(300)), progress=False)
    run = runs[0]
    assert 70 < run["clean"] < 100
    for kind in ("fgsm", "pgd", "rotation", "translation"):
        accuracies = [run["clean"], *run[kind]]
        assert accuracies[-1] < accuracies[0] - 3
        if kind in ("fgsm", "pgd"):
            assert accuracies == sorted(accuracies, reverse=True)
    assert all(strong <= weak for strong, weak in zip(run["pgd"], run["fgsm"], strict=True))


def test_the_command(tmp_path: Path, digits: ImageSplit, capsys: pytest.CaptureFixture[str]) -> None:
    parquet(tmp_path, digits, {"test": 40})
    common = ["-d", str(tmp_path), "-o", str(tmp_path / "report")]
    models = ["tests.networks:first", "tests.networks:second"]
    code, out, err = layeract("shifts", *models, *common, "--kinds", "fgsm,rotation", "--limit", "30", capsys=capsys)
    assert (code, err) == (0, "")
    assert "fgsm 8/255" in out
    result = json.loads((tmp_path / "report" / "shifts.json").read_text())
    assert result["data"]["images"] == 30
    assert [run["source"] for run in result["runs"]] == models
    assert [len(result["runs"][0][kind]) for kind in ("fgsm", "rotation")] == [4, 4]
    assert (tmp_path / "report" / "shifts.png").stat().st_size > 5000
    code, _, err = layeract("shifts", *models, *common, "--kinds", "fgms", capsys=capsys)
    assert code == 2
    assert "did you mean 'fgsm'" in err


class Confused(nn.Module):
    """Never changes its mind: no attack moves it, and its gradient is zero."""

    def __init__(self) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.arange(10.0))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return images.sum((1, 2, 3))[:, None] * 0 + self.bias


def test_an_attack_without_gradient_changes_nothing() -> None:
    images, labels = torch.rand(3, 3, 8, 8), torch.tensor([1, 2, 3])
    assert torch.equal(fgsm(Confused(), images, labels, EPSILON), images)
