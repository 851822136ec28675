"""`timm_layeract.functional` against the float64 oracle: values, gradients, layouts, dtypes, errors."""

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

import timm_layeract.functional as LF
from tests.layer_act_cases import (
    ACTIVATIONS,
    HALVES,
    TOLERANCES,
    arctan_scale,
    array,
    assert_close,
    by_activation,
    check_against_oracle,
    sample,
)
from tests.oracle import Reference, layer_act_reference
from timm_layeract import kernels
from timm_layeract.definition import composite

SHAPES = [
    (4, 7),
    (1, 5),
    (3, 1),
    (2, 3, 5),
    (2, 5, 7, 3),
    (1, 4, 3, 3),
    (3, 6, 1, 1),
    (2, 1, 5, 4),
    (1, 1, 1, 1),
    (16, 8, 9, 11),
    (2, 3, 2, 3, 5),
    (0, 3),
    (0, 3, 4, 4),
]


# --- value and gradient -----------------------------------------------------------------------------------------------


@by_activation
@pytest.mark.parametrize("dtype", TOLERANCES, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_value_and_gradient(name: str, shape: tuple[int, ...], dtype: torch.dtype) -> None:
    check_against_oracle(name, sample(*shape, dtype=dtype))


@by_activation
@pytest.mark.parametrize("alpha", [1e-8, 0.1, 3.0])
def test_alpha(name: str, alpha: float) -> None:
    check_against_oracle(name, sample(3, 4, 5, 5), alpha)


def test_population_variance() -> None:
    # Two elements +-1: population variance 1, unbiased variance 2. By hand, so that the oracle cannot share a slip.
    n = LF.layer_normalize(torch.tensor([[3.0, 5.0]], dtype=torch.float64), alpha=3.0)
    torch.testing.assert_close(n, torch.tensor([[-0.5, 0.5]], dtype=torch.float64))


def test_values_by_hand() -> None:
    y = torch.tensor([[-1.0, 1.0]], dtype=torch.float64)  # n = -1/2, 1/2 with alpha 3
    half = 1 / (1 + math.exp(-0.5))
    torch.testing.assert_close(LF.la_silu(y, 3.0), torch.tensor([[half - 1, half]], dtype=torch.float64))
    torch.testing.assert_close(LF.la_hardsilu(y, 3.0), torch.tensor([[-5 / 12, 7 / 12]], dtype=torch.float64))


@pytest.mark.parametrize("scale", ["sigmoid", "hardsigmoid", "arctan"])
@pytest.mark.parametrize("dtype", TOLERANCES, ids=str)
@pytest.mark.parametrize("shape", [(4, 3), (2, 3, 4), (5, 3, 4, 7), (1, 3, 1, 1), (0, 3, 2, 2)], ids=str)
@pytest.mark.parametrize("channels_last", [False, True])
def test_affine(scale: str, dtype: torch.dtype, shape: tuple[int, ...], channels_last: bool) -> None:
    x = sample(*shape, dtype=dtype)
    if channels_last:
        x = x.movedim(1, -1).contiguous().movedim(-1, 1)
    weight = torch.tensor([0.5, -1.5, 2.0], dtype=dtype, requires_grad=True)
    bias = torch.tensor([0.25, 0.5, -1.0], dtype=dtype, requires_grad=True)
    x.requires_grad_()
    per_channel = (1, 3) + (1,) * (len(shape) - 2)
    n = layer_act_reference(array(x), scale, 0.1).normalized
    argument = n * array(weight).reshape(per_channel) + array(bias).reshape(per_channel)
    upstream = np.where(np.abs(np.abs(argument) - 3) > 0.1, 1.0, 0.0)  # away from the corners of hardsigmoid
    expected = layer_act_reference(array(x), scale, 0.1, upstream, array(weight), array(bias))
    given = arctan_scale if scale == "arctan" else scale
    value = LF.layer_act(x, given, 0.1, weight, bias)
    gradients = torch.autograd.grad(value, (x, weight, bias), torch.empty_like(value).copy_(torch.from_numpy(upstream)))
    assert value.dtype == dtype
    assert value.stride() == (x * 2).stride()
    for actual, reference in zip((value, *gradients), (expected.value, *references(expected)), strict=True):
        assert_close(actual, reference, 4 * TOLERANCES[dtype])


def references(expected: Reference) -> tuple[np.ndarray, ...]:
    assert expected.grad is not None
    assert expected.grad_weight is not None
    assert expected.grad_bias is not None
    return expected.grad, expected.grad_weight, expected.grad_bias


def test_affine_parameters_are_optional_one_by_one() -> None:
    x, c = sample(2, 3, 4), torch.tensor([0.5, -1.5, 2.0], dtype=torch.float64)
    only_weight = layer_act_reference(array(x), "sigmoid", 1e-5, weight=array(c)).value
    only_bias = layer_act_reference(array(x), "sigmoid", 1e-5, bias=array(c)).value
    assert_close(LF.layer_act(x, weight=c), only_weight, 1e-13)
    assert_close(LF.layer_act(x, bias=c), only_bias, 1e-13)


@pytest.mark.parametrize("fn", [LF.la_silu, LF.la_hardsilu])
def test_silu_of_layer_norm_is_la_silu_of_layer_norm(fn: Callable[..., Tensor]) -> None:
    # Paper v3, appendix D: LayerNorm without gain and bias is already what the scale is taken of. Its epsilon leaves
    # the variance just under 1, hence the tolerance.
    elementwise = {LF.la_silu: torch.nn.functional.silu, LF.la_hardsilu: torch.nn.functional.hardswish}[fn]
    normalized = LF.layer_normalize(sample(4, 3, 5, 5), alpha=1e-12)
    torch.testing.assert_close(fn(normalized, alpha=1e-12), elementwise(normalized), atol=1e-9, rtol=1e-9)


# --- layouts ----------------------------------------------------------------------------------------------------------


def embedded(x: Tensor) -> Tensor:
    """`x` as a slice in every dimension of a larger tensor."""
    big = x.new_full([size + 3 for size in x.shape], math.nan)
    view = big[tuple(slice(1, size + 1) for size in x.shape)]
    view.copy_(x)
    return view


LAYOUTS: dict[str, Callable[[], Tensor]] = {
    "contiguous": lambda: sample(4, 6, 5, 7),
    "channels_last": lambda: sample(4, 6, 5, 7).to(memory_format=torch.channels_last),
    "channels_last_3d": lambda: sample(2, 3, 4, 5, 2).to(memory_format=torch.channels_last_3d),
    "channels_last_1d": lambda: sample(4, 7, 6).transpose(1, 2),
    "slice": lambda: embedded(sample(4, 6, 5, 7)),
    "slice_of_channels_last": lambda: embedded(sample(4, 5, 7, 6)).permute(0, 3, 1, 2),
    "every_other_sample": lambda: sample(8, 6, 5, 7)[::2],
    "transposed_spatial": lambda: sample(4, 6, 7, 5).transpose(2, 3),
    "transposed_batch": lambda: sample(6, 4, 5, 7).transpose(0, 1),
    "transposed_2d": lambda: sample(6, 4).t(),
    "one_channel_channels_last": lambda: sample(4, 1, 5, 7).to(memory_format=torch.channels_last),
    "one_pixel_channels_last": lambda: sample(4, 6, 1, 1).to(memory_format=torch.channels_last),
    "expanded_spatial": lambda: sample(4, 6, 1, 1).expand(4, 6, 5, 7),
    "expanded_batch": lambda: sample(1, 6, 5, 7).expand(4, 6, 5, 7),
    "expanded_channel": lambda: sample(4, 1, 5, 7).expand(4, 6, 5, 7),
}


@by_activation
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16], ids=str)
def test_layout_in_is_layout_out(name: str, layout: str, dtype: torch.dtype) -> None:
    x = LAYOUTS[layout]()
    if dtype != x.dtype:  # `to` would make a dense tensor of it
        like = torch.empty(x.untyped_storage().nbytes() // 8, dtype=dtype)
        like.copy_(torch.empty(0, dtype=x.dtype).set_(x.untyped_storage()))
        x = like.as_strided(x.size(), x.stride(), x.storage_offset())
    value, grad = check_against_oracle(name, x)
    formats = {4: torch.channels_last, 5: torch.channels_last_3d}
    for out in (value, grad, LF.layer_normalize(x)):
        assert out.is_contiguous() or not x.is_contiguous()
        if x.dim() in formats and x.is_contiguous(memory_format=formats[x.dim()]):
            assert out.is_contiguous(memory_format=formats[x.dim()])
    if "expanded" not in layout and 1 not in x.shape:  # where strides mean something: what torch gives itself
        assert value.stride() == grad.stride() == (x * 2).stride()


def test_channels_last_reads_in_the_order_of_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    layer_norm = torch.nn.functional.layer_norm
    monkeypatch.setattr(
        composite.F, "layer_norm", lambda x, *args, **kwargs: seen.append(x) or layer_norm(x, *args, **kwargs)
    )
    x = sample(2, 3, 4, 5).to(torch.bfloat16, memory_format=torch.channels_last)
    composite.la_silu(x)
    assert seen[0].is_contiguous()
    assert seen[0].shape == (2, 4, 5, 3)


# --- numerics ---------------------------------------------------------------------------------------------------------


@by_activation
@pytest.mark.parametrize("shape", [(3, 2), (2, 1, 3, 1), (4, 8, 9, 7)], ids=str)
@pytest.mark.parametrize("dtype", HALVES, ids=str)
def test_large_mean_of_half_precision_keeps_the_gradient(name: str, shape: tuple[int, ...], dtype: torch.dtype) -> None:
    x = (torch.randn(shape, generator=torch.Generator().manual_seed(0)) * 0.3 + 40).to(dtype)
    with kernels.use_backend("composite"):
        check_against_oracle(name, x)


@pytest.mark.parametrize("mean", [1e4, -1e4, 1e6])
@pytest.mark.parametrize("channels_last", [False, True])
def test_large_mean_keeps_the_variance(mean: float, channels_last: bool) -> None:
    x = torch.randn(4, 16, 16, 16, generator=torch.Generator().manual_seed(0)) + mean
    if channels_last:
        x = x.to(memory_format=torch.channels_last)
    expected = layer_act_reference(array(x), "sigmoid", 1e-5)
    assert np.abs(array(LF.layer_normalize(x)) - expected.normalized).max() < 1e-5
    assert_close(LF.la_silu(x), expected.value, 1e-6)


@pytest.mark.parametrize("dtype", HALVES, ids=str)
def test_large_mean_in_half_precision_rounds_as_the_dtype_does(dtype: torch.dtype) -> None:
    x = (torch.randn(4, 4096, generator=torch.Generator().manual_seed(0)) + 100).to(dtype)
    expected = torch.from_numpy(layer_act_reference(array(x), "sigmoid", 1e-5).normalized)
    error = (LF.layer_normalize(x).double() - expected).abs()
    assert bool((error <= torch.finfo(dtype).eps * (expected.abs() * 0.51 + 1e-2)).all())


def test_outlier_as_the_first_element() -> None:
    # The element that the sample is shifted by is itself far off.
    x = torch.randn(2, 1000, generator=torch.Generator().manual_seed(0))
    x[:, 0] = 1e8
    assert_close(LF.layer_normalize(x), layer_act_reference(array(x), "sigmoid", 1e-5).normalized, 1e-6)


@pytest.mark.parametrize("dtype", TOLERANCES, ids=str)
@pytest.mark.parametrize("value", [0.0, 3.3, -97.0])
@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("fn", [LF.la_silu, LF.la_hardsilu])
def test_constant_sample_is_halved(fn: Callable[..., Tensor], dtype: torch.dtype, value: float, autocast: bool) -> None:
    x = torch.full((2, 3, 5, 7), value, dtype=dtype).requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
        y = fn(x)
        y.backward(torch.linspace(-1, 1, x.numel(), dtype=dtype).view_as(x))
    assert torch.equal(y, x / 2)
    assert x.grad is not None
    assert bool(torch.isfinite(x.grad).all())


def test_constant_sample_is_exact_at_any_size_of_it() -> None:
    for value in (1e4, 1e30, 1e-30):
        assert torch.equal(LF.layer_normalize(torch.full((1, 3, 33), value)), torch.zeros(1, 3, 33))


@by_activation
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_non_finite_spoils_its_own_sample_only(name: str, bad: float) -> None:
    activation, _ = ACTIVATIONS[name]
    clean = sample(3, 4, 5, 5, dtype=torch.float32)
    x = clean.clone()
    x[1, 2, 3, 4] = bad
    x.requires_grad_()
    y = activation(x)
    assert bool(y[1].isnan().all())
    assert torch.equal(y[[0, 2]], activation(clean)[[0, 2]])
    y[[0, 2]].sum().backward()
    assert x.grad is not None
    assert bool(torch.isfinite(x.grad[[0, 2]]).all())


@by_activation
def test_samples_do_not_see_each_other(name: str) -> None:
    activation, _ = ACTIVATIONS[name]
    x = sample(5, 3, 4, 4, dtype=torch.float32)
    torch.testing.assert_close(torch.cat([activation(one[None]) for one in x]), activation(x))


@by_activation
@pytest.mark.parametrize("autocast", HALVES, ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, *HALVES], ids=str)
def test_autocast_keeps_dtype_and_float32_statistics(name: str, autocast: torch.dtype, dtype: torch.dtype) -> None:
    x = sample(2, 8, 40, 40, dtype=dtype)  # 12,800 elements: a sum in half precision would stop growing
    with torch.autocast("cpu", dtype=autocast):
        check_against_oracle(name, x, alpha=0.1)


def test_autocast_affine_with_float32_parameters() -> None:
    x = sample(2, 3, 8, 8, dtype=torch.bfloat16)
    weight, bias = torch.tensor([0.5, -1.5, 2.0]), torch.tensor([0.25, 0.5, -1.0])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = LF.layer_act(x, weight=weight, bias=bias)
    assert y.dtype == torch.bfloat16
    expected = layer_act_reference(array(x), "sigmoid", 1e-5, weight=array(weight), bias=array(bias))
    assert_close(y, expected.value, 1e-2)


# --- errors -----------------------------------------------------------------------------------------------------------


@by_activation
def test_no_dimension_but_the_batch(name: str) -> None:
    with pytest.raises(ValueError, match=r"\(N, \.\.\.\), got \[3\]"):
        ACTIVATIONS[name][0](torch.randn(3))
    with pytest.raises(ValueError, match=r"got \[\]"):
        ACTIVATIONS[name][0](torch.tensor(1.0))


@by_activation
@pytest.mark.parametrize("dtype", [torch.int64, torch.uint8, torch.bool, torch.complex64], ids=str)
def test_not_floating_point(name: str, dtype: torch.dtype) -> None:
    with pytest.raises(TypeError, match=f"floating-point input, got {dtype}"):
        ACTIVATIONS[name][0](torch.ones(2, 3, dtype=dtype))


def test_affine_parameter_of_the_wrong_size() -> None:
    with pytest.raises(ValueError, match=r"weight must hold one value for each of the 3 channels.*got shape \[4\]"):
        LF.layer_act(torch.randn(2, 3, 4, 4), weight=torch.ones(4))
    with pytest.raises(ValueError, match=r"bias must hold one value.*got shape \[1\]"):
        LF.layer_act(torch.randn(2, 3), bias=torch.ones(1))


def test_unknown_scale() -> None:
    with pytest.raises(ValueError, match=r"Unknown scale 'tanh'; known are sigmoid, hardsigmoid"):
        LF.layer_act(torch.randn(2, 3), "tanh")
