"""The LayerAct functions, inputs for them, and their comparison with the oracle: shared by the tests of functional."""

import functools
import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

import timm_layeract.functional as LF
from tests.oracle import Reference, layer_act_reference


def arctan_scale(n: Tensor) -> Tensor:
    return 0.5 + torch.arctan(math.pi / 2 * n) / math.pi


# Activation -> scale of the oracle. All take (x, alpha=...).
ACTIVATIONS: dict[str, tuple[Callable[..., Tensor], str]] = {
    "la_silu": (LF.la_silu, "sigmoid"),
    "la_hardsilu": (LF.la_hardsilu, "hardsigmoid"),
    "sigmoid": (functools.partial(LF.layer_act, scale="sigmoid"), "sigmoid"),
    "hardsigmoid": (functools.partial(LF.layer_act, scale="hardsigmoid"), "hardsigmoid"),
    "arctan": (functools.partial(LF.layer_act, scale=arctan_scale), "arctan"),
}
# Largest error, as a share of the largest value: a few roundings of each dtype.
TOLERANCES = {torch.float64: 2e-13, torch.float32: 2e-6, torch.float16: 3e-3, torch.bfloat16: 2e-2}
HALVES = [torch.bfloat16, torch.float16]
by_activation = pytest.mark.parametrize("name", ACTIVATIONS)


def sample(*shape: int, dtype: torch.dtype = torch.float64, seed: int = 0) -> Tensor:
    """Samples of different mean and spread, with tails that reach the flat parts of the scales."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(shape, dtype=torch.float64, generator=generator) ** 3
    if x.numel():
        x = x * torch.linspace(0.5, 3, shape[0], dtype=torch.float64).view(-1, *[1] * (len(shape) - 1))
        x = x + torch.linspace(-2, 1, shape[0], dtype=torch.float64).view(-1, *[1] * (len(shape) - 1))
    return x.to(dtype)


def array(x: Tensor) -> np.ndarray:
    return x.detach().double().numpy()


def assert_close(actual: Tensor, expected: np.ndarray, tolerance: float) -> None:
    assert tuple(actual.shape) == expected.shape
    if expected.size:
        error = np.abs(array(actual) - expected).max() / max(np.abs(expected).max(), 1e-30)
        assert error <= tolerance, f"relative error {error:.3g} above {tolerance:g}"


def upstream_for(x: Tensor, alpha: float) -> Tensor:
    """A gradient to send back; zero next to the corners of hardsigmoid, where a rounding decides the slope."""
    generator = torch.Generator().manual_seed(7)
    gradient = torch.randn(x.shape, dtype=torch.float64, generator=generator)
    n = layer_act_reference(array(x), "sigmoid", alpha).normalized
    return (gradient * torch.from_numpy(np.abs(np.abs(n) - 3) > 0.1)).to(x.dtype)


def check_against_oracle(name: str, x: Tensor, alpha: float = 1e-5) -> tuple[Tensor, Tensor]:
    """Compare value and gradient at `x` as it lies in memory; return both."""
    activation, scale = ACTIVATIONS[name]
    x = x.detach().requires_grad_()
    upstream = upstream_for(x, alpha)
    value = activation(x, alpha=alpha)
    upstream = torch.empty_like(value).copy_(upstream)  # a gradient comes in its tensor's layout
    (grad,) = torch.autograd.grad(value, x, upstream)
    expected: Reference = layer_act_reference(array(x), scale, alpha, array(upstream))
    assert expected.grad is not None
    assert value.dtype == grad.dtype == x.dtype
    assert_close(value, expected.value, TOLERANCES[x.dtype])
    assert_close(grad, expected.grad, 4 * TOLERANCES[x.dtype])
    return value, grad
