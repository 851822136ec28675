"""GPN activations against their definition by quadrature; initialisation by name."""

import numpy as np
import pytest
import torch
from torch import nn

from timm_layeract import LeakyReLUGPN
from timm_layeract.checkpoints.fingerprint import describe_activation
from timm_layeract.errors import UserError
from timm_layeract.models._initialization import INITIALIZATIONS, initialize
from timm_layeract.registry import activation_factory


@pytest.mark.parametrize(("name", "slope", "gain"), [("relu_gpn", 0.0, 1.4142), ("leaky_relu_gpn", 0.01, 1.4141)])
def test_gpn_is_gaussian_poincare_normalized(name: str, slope: float, gain: float) -> None:
    activation = activation_factory(name)(inplace=True)
    x = torch.linspace(-10, 10, 400_002, dtype=torch.float64).requires_grad_()  # 0 lies between two points
    y = activation(x)
    (derivative,) = torch.autograd.grad(y.sum(), x)
    density = np.exp(-(x.detach().numpy() ** 2) / 2) / np.sqrt(2 * np.pi)
    for values in (y.detach(), derivative):
        assert np.trapezoid(values.numpy() ** 2 * density, x.detach().numpy()) == pytest.approx(1, abs=1e-6)
    assert float(activation(torch.ones(()))) == pytest.approx(gain, abs=5e-5)
    assert float(activation(-torch.ones(()))) == pytest.approx(-gain * slope, abs=5e-5)
    assert describe_activation(activation) == f"LeakyReLUGPN(negative_slope={slope:g})"


def test_gpn_of_another_slope() -> None:
    x = torch.randn(1_000_000, generator=torch.Generator().manual_seed(0))
    assert float(LeakyReLUGPN(0.3)(x).square().mean()) == pytest.approx(1, abs=0.01)


@pytest.mark.parametrize(
    ("name", "spread"), [("xavier", (2 / (180 + 270)) ** 0.5), ("he", (2 / 180) ** 0.5), ("orthogonal", 180**-0.5)]
)
def test_initialize(name: str, spread: float) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(20, 30, 3), nn.BatchNorm2d(30), nn.Linear(180, 270), nn.Conv1d(4, 4, 1, bias=False))
    nn.init.constant_(model[1].bias, 2.0)
    initialize(model, name)
    assert float(model[0].weight.detach().std()) == pytest.approx(spread, rel=0.05)
    assert float(model[0].weight.detach().mean()) == pytest.approx(0, abs=0.01)
    assert (model[0].bias == 0).all()
    assert (model[2].bias == 0).all()
    assert (model[1].bias == 2).all()
    if name == "orthogonal":
        torch.testing.assert_close(model[2].weight.T @ model[2].weight, torch.eye(180), atol=1e-4, rtol=0)


def test_unknown_initialisation() -> None:
    assert list(INITIALIZATIONS) == ["xavier", "he", "orthogonal"]
    with pytest.raises(UserError, match="Unknown initialisation 'xavir'; did you mean 'xavier'"):
        initialize(nn.Linear(2, 2), "xavir")
