"""The measures of the normalized activations' paper: R score, rho and rho' of a network in training, score, weights."""

import copy
import csv
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from scipy import integrate
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from tests.cli.test_cli import layeract
from timm_layeract import LASiLU, NormalizedAct
from timm_layeract.analysis import VarianceRecorder, gradient_score, mean_weights, r_score
from timm_layeract.errors import UserError

SIGMAS = [0.01, 0.5, 1.0, 3.0, 10.0]
# Functions of numpy with their derivatives, for scipy's adaptive quadrature, and where they have kinks.
FUNCTIONS: dict[
    str, tuple[Callable[[Tensor], Tensor], Callable[..., float], Callable[..., float], tuple[float, ...]]
] = {
    "tanh": (torch.tanh, np.tanh, lambda x: 1 / np.cosh(x) ** 2, ()),
    "swish": (
        F.silu,
        lambda x: x / (1 + np.exp(-x)),
        lambda x: 1 / (1 + np.exp(-x)) + x * np.exp(-x) / (1 + np.exp(-x)) ** 2,
        (),
    ),
    "elu": (F.elu, lambda x: x if x > 0 else np.expm1(x), lambda x: 1 if x > 0 else np.exp(x), (0.0,)),
    "relu6": (F.relu6, lambda x: min(max(x, 0), 6), lambda x: float(0 < x < 6), (0.0, 6.0)),
}


@pytest.mark.parametrize("sigma", SIGMAS)
def test_r_score_of_relu_is_ln_1_minus_1_over_pi(sigma: float) -> None:
    expected = math.log(1 - 1 / math.pi)
    assert expected == pytest.approx(-0.3831, abs=1e-4)
    assert r_score(nn.ReLU(inplace=True), sigma) == pytest.approx(expected, abs=1e-9)
    # Leaky ReLU is (1 - s) relu(x) + s x, whose moments follow from those of ReLU.
    s = 0.01
    variance = (1 + s**2) / 2 - (1 - s) ** 2 / (2 * math.pi)
    leaky = math.log(variance / ((1 + s**2) / 2))
    assert r_score(nn.LeakyReLU(s), sigma) == pytest.approx(leaky, abs=1e-9)
    assert leaky == pytest.approx(expected, abs=0.01)


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("sigma", [0.1, 1.0, 4.0])
def test_r_score_is_that_of_adaptive_quadrature(name: str, sigma: float) -> None:
    activation, f, slope, kinks = FUNCTIONS[name]

    def mean(g: Callable[[float], float]) -> float:
        def weighted(x: float) -> float:
            return g(x) * math.exp(-(x**2) / (2 * sigma**2)) / (sigma * math.sqrt(2 * math.pi))

        inside = [kink for kink in kinks if abs(kink) < 12 * sigma]
        return integrate.quad(weighted, -12 * sigma, 12 * sigma, points=[0.0, *inside], limit=500)[0]

    m = mean(f)
    expected = math.log(mean(lambda x: (f(x) - m) ** 2) / (sigma**2 * mean(lambda x: slope(x) ** 2)))
    assert r_score(activation, sigma) == pytest.approx(expected, abs=1e-3 if name == "relu6" else 1e-7)
    assert r_score(activation, sigma) < 0


def test_r_score_is_0_for_linear_functions_and_does_not_change_with_scale_and_shift() -> None:
    assert r_score(lambda x: 3 * x + 2, 1.7) == pytest.approx(0, abs=1e-12)
    assert r_score(lambda x: 3 * F.silu(x) + 2, 1.7) == pytest.approx(r_score(F.silu, 1.7), abs=1e-10)


def test_r_score_refuses_what_has_none() -> None:
    with pytest.raises(UserError, match="must be positive, got 0"):
        r_score(F.silu, 0.0)
    with pytest.raises(UserError, match="constant for inputs of standard deviation 2"):
        r_score(lambda x: 0 * x, 2.0)


def test_command_draws_figure_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = layeract("r-score", "-o", str(tmp_path / "new"), "--points", "5", capsys=capsys)
    assert (code, err) == (0, "")
    assert "relu           -0.3832 at 0.01   -0.3832 at 10" in out
    rows = list(csv.DictReader((tmp_path / "new" / "r_score.csv").read_text().splitlines()))
    assert [float(row["sigma"]) for row in rows] == pytest.approx([0.01, 0.056234, 0.316228, 1.77828, 10], rel=1e-4)
    assert list(rows[0]) == ["sigma", "relu", "leaky_relu", "tanh", "elu", "selu", "silu"]
    for row in rows:
        assert float(row["silu"]) == pytest.approx(r_score(F.silu, float(row["sigma"])), abs=1e-5)
    assert (tmp_path / "new" / "r_score.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["-a", "sillu"], "Unknown activation 'sillu'; did you mean 'silu'"),
        (["-a", "lasilu"], "lasilu is not an elementwise function"),
        (["--from", "2", "--to", "1"], "Give 0 < --from < --to"),
    ],
)
def test_mistakes(arguments: list[str], words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = layeract("r-score", "-o", str(tmp_path / "new"), *arguments, capsys=capsys)
    assert code == 2
    assert words in err
    assert not (tmp_path / "new").exists()


# --- in training ------------------------------------------------------------------------------------------------------


def inputs(seed: int, spread: float = 1.0) -> Tensor:
    return torch.randn(16, 6, generator=torch.Generator().manual_seed(seed)) * spread


def network(*activations: nn.Module) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(*(layer for act in activations for layer in (nn.Linear(6, 6), act)))


@pytest.mark.parametrize(
    "act", [nn.ReLU(inplace=True), nn.ELU(inplace=True), nn.SiLU(), nn.GELU(), nn.PReLU()], ids=repr
)
def test_recorder_sees_rho_and_slope_of_every_step(act: nn.Module) -> None:
    model = network(act, copy.deepcopy(act))
    twin, expected = copy.deepcopy(model), []
    with VarianceRecorder(model) as recorder:
        for seed in range(3):
            model(inputs(seed)).sum().backward()
            model.eval()(inputs(99))  # evaluation does not count
            model.train()
            hidden = twin[0](inputs(seed)).detach().requires_grad_()
            y = twin[1](hidden.clone())
            (slope,) = torch.autograd.grad(y.sum(), hidden)
            x = hidden.detach().double().numpy()
            expected.append((y.detach().double().numpy().var() / x.var(), (slope.double().numpy() ** 2).mean()))
    np.testing.assert_allclose(recorder.history["1"], expected, rtol=1e-5)
    assert len(recorder.history["3"]) == 3
    model(inputs(4))
    assert len(recorder.history["1"]) == 3  # the hooks are gone
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_a_normalized_activation_is_recorded_as_what_it_is_and_not_disturbed() -> None:
    model, twin = (network(NormalizedAct(nn.SiLU), NormalizedAct(nn.ReLU)) for _ in range(2))
    with VarianceRecorder(model) as recorder:
        for seed in range(3):
            torch.testing.assert_close(model(inputs(seed)), twin(inputs(seed)), rtol=0, atol=0)
    torch.testing.assert_close(model.state_dict(), twin.state_dict(), rtol=0, atol=0)
    assert list(recorder.history) == ["1", "3"]  # not their bases
    x = model[0](inputs(2)).detach().requires_grad_()
    model.eval()
    y = model[1](x)
    (slope,) = torch.autograd.grad(y.sum(), x)
    expected = (float(y.detach().var() / x.detach().var()), float(slope.square().mean()))
    assert recorder.latest()["1"] == pytest.approx(expected, rel=1e-5)
    first = [values[0] for values in recorder.history.values()]
    # With the first batch's own values lambda^2 (rho, rho') have the harmonic mean 1.
    assert [1 / rho + 1 / slope for rho, slope in first] == pytest.approx([2, 2], rel=1e-5)


def test_recorder_every_so_many_steps_and_in_checkpointed_blocks() -> None:
    model = network(nn.ReLU(), nn.SiLU())
    with VarianceRecorder(model, every=2) as recorder:
        for seed in range(5):
            checkpoint(model, inputs(seed), use_reentrant=False).sum().backward()
    assert [len(values) for values in recorder.history.values()] == [3, 3]
    assert len(recorder.scores()) == 3
    assert recorder.scores()[-1] == pytest.approx(gradient_score(recorder.latest()))


def test_recorder_leaves_out_what_is_not_elementwise() -> None:
    recorder = VarianceRecorder(nn.Sequential(nn.Linear(3, 3), LASiLU(), nn.ReLU(), nn.Softmax(1)))
    assert list(recorder.history) == ["2"]
    with pytest.raises(UserError, match="no elementwise activation"):
        VarianceRecorder(nn.Sequential(nn.Linear(3, 3), LASiLU()))


def test_score_is_equation_22() -> None:
    statistics = {"a": (0.5, 2.0), "b": (1.0, 1.0), "c": (math.e, math.e**-3)}
    assert gradient_score(statistics) == pytest.approx(math.log(2) + 0 + 2)
    assert gradient_score({"a": (0.0, 1.0)}) == math.inf


def test_normalization_brings_the_score_down() -> None:
    scores = {}
    for name in ("lenet5", "lenet5_nrelu"):
        torch.manual_seed(0)
        model = timm.create_model(name)
        with VarianceRecorder(model) as recorder:
            model(torch.randn(64, 1, 28, 28))
        scores[name] = gradient_score(recorder.latest())
    assert scores["lenet5_nrelu"] < scores["lenet5"] / 2


def test_mean_weights() -> None:
    model = nn.Sequential(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), nn.Flatten(), nn.Linear(3, 4))
    nn.init.constant_(model[1].weight, 9.0)
    weights = [model[0].weight.detach().numpy(), model[3].weight.detach().numpy()]
    assert mean_weights(model) == pytest.approx(sum(abs(each.mean(dtype=np.float64)) for each in weights))
