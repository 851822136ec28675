"""Normalized activations against the paper's equations, written out with numpy in float64."""

import copy
from collections.abc import Callable

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

import timm_layeract
from timm_layeract import NormalizedAct
from timm_layeract.definition import normalized
from timm_layeract.definition.normalized import act_moments, act_statistics, merge_moments
from timm_layeract.functional import normalized_act
from timm_layeract.registry import activation_factory

Array = NDArray[np.float64]

# The paper's functions (24), (26), (39) and others, each with its derivative.
REFERENCES: dict[str, tuple[type[nn.Module], Callable[[Array], Array], Callable[[Array], Array]]] = {
    "relu": (nn.ReLU, lambda x: np.maximum(x, 0), lambda x: (x > 0) * 1.0),
    "lrelu": (nn.LeakyReLU, lambda x: np.where(x > 0, x, 0.01 * x), lambda x: np.where(x > 0, 1.0, 0.01)),
    "swish": (
        nn.SiLU,
        lambda x: x / (1 + np.exp(-x)),
        lambda x: 1 / (1 + np.exp(-x)) + x * np.exp(-x) / (1 + np.exp(-x)) ** 2,
    ),
    "tanh": (nn.Tanh, np.tanh, lambda x: 1 / np.cosh(x) ** 2),
    "elu": (nn.ELU, lambda x: np.where(x > 0, x, np.exp(x) - 1), lambda x: np.where(x > 0, 1.0, np.exp(x))),
    "hardswish": (
        nn.Hardswish,
        lambda x: x * np.clip(x + 3, 0, 6) / 6,
        lambda x: np.where(np.abs(x) < 3, x / 3 + 0.5, (x > 0) * 1.0),
    ),
}
each_function = pytest.mark.parametrize("name", REFERENCES)
SHAPES = [(7,), (1, 3), (5, 4), (2, 3, 5, 7), (2, 3, 4, 1, 2)]


def ratios(x: Array, name: str) -> tuple[float, float, float]:
    """rho, rho' and mu of a batch, equations 31, 6 and 15."""
    _, f, slope = REFERENCES[name]
    y = f(x)
    rho = ((y - y.sum() / y.size) ** 2).sum() / ((x - x.sum() / x.size) ** 2).sum()
    return rho, (slope(x) ** 2).sum() / x.size, y.sum() / y.size


def factor(rho: float, slope: float) -> float:
    return np.sqrt(1 / (2 / (1 / rho + 1 / slope)))  # the reciprocal of their harmonic mean


def inputs(*shape: int, seed: int = 0, shift: float = 0.3, spread: float = 1.7) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64) * spread + shift


@each_function
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("alpha", [0.0, -0.8])
def test_value_and_gradients_are_the_papers(name: str, shape: tuple[int, ...], alpha: float) -> None:
    kind, f, slope = REFERENCES[name]
    x, upstream = inputs(*shape).requires_grad_(), inputs(*shape, seed=1)
    module = NormalizedAct(kind).double()
    nn.init.constant_(module.alpha, alpha)
    y = module(x)
    y.backward(upstream)
    rho, rho_prime, mu = ratios(x.detach().numpy(), name)
    gain = factor(rho, rho_prime) + 0.3 * np.tanh(alpha)
    plain = f(x.detach().numpy())
    np.testing.assert_allclose(y.detach().numpy(), gain * (plain - mu), rtol=1e-12, atol=1e-12)
    # Equations 37 and 42: the statistics are constants.
    np.testing.assert_allclose(x.grad, upstream.numpy() * gain * slope(x.detach().numpy()), rtol=1e-12, atol=1e-12)
    # Equations 36 and 41.
    expected = (upstream.numpy() * 0.3 * (plain - mu) * (1 - np.tanh(alpha) ** 2)).sum()
    np.testing.assert_allclose(module.alpha.grad, expected, rtol=1e-10, atol=1e-12)
    functional = normalized_act(x, kind(), torch.tensor(alpha, dtype=torch.float64))
    torch.testing.assert_close(functional, y)


@pytest.mark.parametrize("name", ["relu", "leaky_relu", "prelu", "silu", "gelu", "mish", "elu", "selu", "hard_swish"])
def test_any_elementwise_name_of_the_registry(name: str) -> None:
    module = NormalizedAct(activation_factory(name)).double()
    x = inputs(4, 3, 5, 5).requires_grad_()
    y = module(x)
    y.square().sum().backward()
    step = 1e-6
    with torch.no_grad():
        slope = (module.base(x + step) - module.base(x - step)) / (2 * step)
        torch.testing.assert_close(module.running_slope, slope.square().mean(), rtol=1e-5, atol=1e-6)
    assert torch.autograd.gradcheck(module.eval(), [x])


@pytest.mark.parametrize("base", [nn.Softmax(1), nn.GLU(), nn.RReLU(), timm_layeract.LASiLU(), nn.PReLU(3)], ids=repr)
def test_what_is_not_elementwise_is_refused(base: nn.Module) -> None:
    with pytest.raises(ValueError, match=f"{type(base).__name__} is not elementwise"):
        NormalizedAct(base)


@pytest.mark.parametrize("kwargs", [dict(momentum=0.0), dict(momentum=1.5), dict(lower=1.0), dict(upper=1.0)], ids=str)
def test_settings_that_make_no_sense(kwargs: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=f"got .*{next(iter(kwargs))}={next(iter(kwargs.values()))}"):
        NormalizedAct(nn.ReLU, **kwargs)


# --- running values ---------------------------------------------------------------------------------------------------


def batches() -> list[Tensor]:
    """Twelve batches, of which three are outliers: nearly all negative, nearly all positive, huge and off centre."""
    ordinary = [inputs(16, 5, seed=seed, shift=0.1 * seed, spread=1 + 0.1 * seed) for seed in range(12)]
    ordinary[3] = inputs(16, 5, seed=3, shift=-4.0)
    ordinary[6] = inputs(16, 5, seed=6, shift=6.0)
    ordinary[9] = inputs(16, 5, seed=9, shift=-8.0, spread=5.0)
    return ordinary


@each_function
@pytest.mark.parametrize(("momentum", "lower", "upper"), [(0.1, 0.5, 1.5), (0.3, 0.2, 5.0), (1.0, 0.001, 1e3)])
def test_updates_are_those_of_a_loop_over_the_batches(name: str, momentum: float, lower: float, upper: float) -> None:
    module = NormalizedAct(REFERENCES[name][0], momentum=momentum, lower=lower, upper=upper).double()
    rho = rho_prime = mu = 0.0
    left_alone = 0
    for t, batch in enumerate(batches()):
        y = module(batch)
        rho_m, rho_prime_m, mu_m = ratios(batch.numpy(), name)
        if t == 0:
            rho, rho_prime, mu = rho_m, rho_prime_m, mu_m
        else:
            if lower * rho < rho_m < upper * rho:
                rho = momentum * rho_m + (1 - momentum) * rho
            else:
                left_alone += 1
            if lower * rho_prime < rho_prime_m < upper * rho_prime:
                rho_prime = momentum * rho_prime_m + (1 - momentum) * rho_prime
            else:
                left_alone += 1
            mu = momentum * mu_m + (1 - momentum) * mu
        running = [module.running_rho.item(), module.running_slope.item(), module.running_mean.item()]
        np.testing.assert_allclose(running, [rho, rho_prime, mu], rtol=1e-10)
        expected = factor(rho, rho_prime) * (REFERENCES[name][1](batch.numpy()) - mu)
        np.testing.assert_allclose(y.detach().numpy(), expected, rtol=1e-9, atol=1e-9)
    assert module.num_batches_tracked == 12
    assert left_alone > 0 or lower < 0.01


def test_evaluation_uses_the_running_values_and_changes_nothing() -> None:
    module = NormalizedAct(nn.SiLU)
    for batch in batches():
        module(batch.float())
    module.eval()
    state = copy.deepcopy(module.state_dict())
    x = inputs(3, 4, seed=99).float()
    torch.testing.assert_close(module(x)[:1], module(x[:1]))
    expected = factor(float(module.running_rho), float(module.running_slope)) * (
        REFERENCES["swish"][1](x.numpy()) - float(module.running_mean)
    )
    np.testing.assert_allclose(module(x).detach().numpy(), expected, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(module.state_dict(), state, rtol=0, atol=0)


@pytest.mark.parametrize("bad", [torch.full((3, 4), 2.0), torch.zeros(3, 4), -torch.ones(3, 4), torch.zeros(0, 4)])
def test_a_first_batch_without_variance_leaves_the_factor_at_one(bad: Tensor) -> None:
    module = NormalizedAct(nn.ReLU)
    assert module(bad).isfinite().all()
    assert (module.running_rho, module.running_slope, module.num_batches_tracked) == (1, module.running_slope, 0)
    x = inputs(8, 4).float()
    module(x)
    torch.testing.assert_close(module.running_rho, act_statistics(x, nn.ReLU()).rho)  # it was the first after all
    assert module.num_batches_tracked == 1


@pytest.mark.parametrize("value", [float("inf"), float("nan")])
def test_values_that_are_not_finite_never_enter(value: float) -> None:
    module = NormalizedAct(nn.ReLU)
    module(inputs(8, 4).float())
    before = copy.deepcopy(module.state_dict())
    x = inputs(8, 4, seed=1).float()
    x[0, 0] = value
    module(x)
    for name in ("running_rho", "running_mean"):
        torch.testing.assert_close(module.state_dict()[name], before[name])
    assert all(tensor.isfinite().all() for tensor in module.state_dict().values())


def test_uncentered_leaves_the_mean_in() -> None:
    x = inputs(6, 5)
    centred, uncentred = NormalizedAct(nn.ReLU).double(), NormalizedAct(nn.ReLU, centered=False).double()
    gain = factor(*ratios(x.numpy(), "relu")[:2])
    torch.testing.assert_close(uncentred(x), gain * x.relu())
    torch.testing.assert_close(uncentred(x) - centred(x), torch.full_like(x, gain * float(x.relu().mean())))


def test_masked_elements_do_not_count() -> None:
    tokens, lengths = inputs(4, 6, 3), torch.tensor([6, 2, 1, 4])
    mask = torch.arange(6) < lengths[:, None]
    tokens[~mask] = 1e3
    module = NormalizedAct(nn.SiLU).double()
    y = module(tokens, mask[..., None])
    expected = ratios(tokens[mask].numpy(), "swish")
    running = [module.running_rho.item(), module.running_slope.item(), module.running_mean.item()]
    np.testing.assert_allclose(running, expected, rtol=1e-12)
    assert y.shape == tokens.shape
    torch.testing.assert_close(y, normalized_act(tokens, nn.SiLU(), mask=mask[..., None]))
    assert float(y[mask].detach().mean()) == pytest.approx(0, abs=1e-12)
    with pytest.raises(ValueError, match=r"mask \[4, 6\] does not broadcast .* \[4, 6, 3\]; .* mask\[\.\.\., None\]"):
        module(tokens, mask)
    with pytest.raises(ValueError, match="mask must be boolean"):
        module(tokens, mask[..., None].double())


def test_two_forwards_before_one_backward() -> None:
    module = NormalizedAct(nn.SiLU)
    first, second = inputs(4, 3).float().requires_grad_(), inputs(4, 3, seed=1).float().requires_grad_()
    (module(first).sum() + module(second).sum()).backward()
    assert module.alpha.grad is not None


@pytest.mark.parametrize("reentrant", [True, False])
def test_a_block_computed_again_in_backward_counts_once_and_computes_the_same(reentrant: bool) -> None:
    torch.manual_seed(0)
    plain = nn.Sequential(nn.Linear(4, 4), NormalizedAct(nn.SiLU), nn.Linear(4, 4))
    twin = copy.deepcopy(plain)
    for seed in range(3):
        x = inputs(8, 4, seed=seed, spread=1 + seed).float().requires_grad_()
        again = x.detach().clone().requires_grad_()
        plain(x).square().sum().backward()
        checkpoint(twin, again, use_reentrant=reentrant).square().sum().backward()
        torch.testing.assert_close(again.grad, x.grad, rtol=0, atol=0)
    torch.testing.assert_close(twin.state_dict(), plain.state_dict(), rtol=0, atol=0)
    assert twin[1].num_batches_tracked == 3


# --- precision --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["relu", "lrelu", "swish"])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 2e-2), (torch.float16, 4e-3)])
def test_low_precision_stays_near_float64(name: str, dtype: torch.dtype, tolerance: float) -> None:
    x = inputs(32, 8, 5, 5, shift=0.0).to(dtype)
    module = NormalizedAct(REFERENCES[name][0])
    y = module(x)
    assert y.dtype == dtype
    assert module.running_rho.dtype == torch.float32
    wide = x.double().numpy()
    rho, rho_prime, mu = ratios(wide, name)
    # The statistics are not taken in the input's precision, only from inputs rounded to it.
    np.testing.assert_allclose(module.running_rho.item(), rho, rtol=max(1e-5, tolerance / 20))
    np.testing.assert_allclose(module.running_slope.item(), rho_prime, rtol=max(1e-5, tolerance / 20))
    expected = factor(rho, rho_prime) * (REFERENCES[name][1](wide) - mu)
    np.testing.assert_allclose(y.double().detach().numpy(), expected, rtol=tolerance, atol=tolerance)


def test_autocast() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 8), NormalizedAct(nn.ReLU), nn.Linear(8, 2))
    x = inputs(64, 8).float()
    with torch.autocast("cpu", torch.bfloat16):
        y = model(x)
    assert y.dtype == torch.bfloat16
    y.float().sum().backward()
    assert model[1].alpha.grad.dtype == torch.float32
    assert model[1].running_rho.dtype == torch.float32
    hidden = model[0](x)
    torch.testing.assert_close(model[1].running_rho, act_statistics(hidden, nn.ReLU()).rho, rtol=1e-2, atol=0)


def test_a_large_mean_keeps_the_variance() -> None:
    x = inputs(1000, 10, shift=1e4, spread=1.0).float()
    rho, slope, mean = act_statistics(x, nn.ReLU())
    np.testing.assert_allclose([rho, slope, mean], ratios(x.double().numpy(), "relu"), rtol=1e-4)


def test_moments_of_parts_make_those_of_the_whole() -> None:
    x = inputs(40, 3, shift=50.0)
    parts = [x[:5], x[5:6], x[6:6], x[6:]]
    merged = merge_moments(torch.stack([act_moments(part, part.tanh(), nn.Tanh()) for part in parts]))
    torch.testing.assert_close(merged, act_moments(x, x.tanh(), nn.Tanh()))


@each_function
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_large_batches_are_taken_in_pieces(
    name: str, layout: torch.memory_format, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(normalized, "PIECE", 50)
    kind, function, _ = REFERENCES[name]
    x = inputs(7, 3, 4, 2).contiguous(memory_format=layout)
    np.testing.assert_allclose(act_statistics(x, kind()), ratios(x.numpy(), name), rtol=1e-12)
    moments = act_moments(x, kind()(x), kind())
    y = function(x.numpy())
    expected = [x.numel(), x.numpy().mean(), x.numpy().var(), y.mean(), y.var()]
    np.testing.assert_allclose(moments[:5], expected, rtol=1e-12)
