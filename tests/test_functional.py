"""`timm_layeract.functional` against the float64 oracle: values, gradients, layouts, dtypes, transforms, errors."""

import functools
import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

import timm_layeract.functional as LF
from timm_layeract import composite

from .oracle import Reference, layer_act_reference


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


def test_channels_last_reads_in_place(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    layer_norm = torch.nn.functional.layer_norm
    monkeypatch.setattr(
        composite.F, "layer_norm", lambda x, *args, **kwargs: seen.append(x) or layer_norm(x, *args, **kwargs)
    )
    x = sample(2, 3, 4, 5).to(torch.bfloat16, memory_format=torch.channels_last)
    composite.la_silu(x)
    assert seen[0].is_contiguous()
    assert seen[0].data_ptr() == x.data_ptr()


# --- numerics ---------------------------------------------------------------------------------------------------------


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


# --- derivatives of every kind ----------------------------------------------------------------------------------------


@by_activation
@pytest.mark.parametrize("layout", [(3, 4), (2, 3, 5), (2, 3, 2, 2), "channels_last"], ids=str)
def test_gradcheck_reverse_and_forward(name: str, layout: tuple[int, ...] | str) -> None:
    x = sample(2, 3, 2, 2).to(memory_format=torch.channels_last) if isinstance(layout, str) else sample(*layout)
    x.requires_grad_()
    activation = functools.partial(ACTIVATIONS[name][0], alpha=0.1)
    assert torch.autograd.gradcheck(
        activation, x, check_forward_ad=True, check_batched_grad=True, check_batched_forward_grad=True
    )
    assert torch.autograd.gradgradcheck(activation, x)


def test_gradcheck_affine() -> None:
    x = sample(2, 3, 2, 2).requires_grad_()
    weight = torch.tensor([0.5, -1.5, 2.0], dtype=torch.float64, requires_grad=True)
    bias = torch.tensor([0.25, 0.5, -1.0], dtype=torch.float64, requires_grad=True)

    def affine(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return LF.layer_act(x, "sigmoid", 0.1, weight, bias)

    assert torch.autograd.gradcheck(affine, (x, weight, bias), check_forward_ad=True)
    assert torch.autograd.gradgradcheck(affine, (x, weight, bias))


@by_activation
def test_func_transforms(name: str) -> None:
    activation = functools.partial(ACTIVATIONS[name][0], alpha=0.1)
    x = sample(5, 2, 3, 4)  # an outer dimension, then a batch of two
    torch.testing.assert_close(torch.func.vmap(activation)(x), torch.stack([activation(one) for one in x]))
    along_one = torch.func.vmap(activation, in_dims=1, out_dims=1)(x)
    torch.testing.assert_close(along_one, torch.stack([activation(x[:, i]) for i in range(2)], 1))

    def loss(one: Tensor) -> Tensor:  # one sample, as in per-sample gradients
        return (activation(one[None]) ** 2).sum()

    batch = x[:, 0].clone().requires_grad_()
    (expected,) = torch.autograd.grad((activation(batch) ** 2).sum(), batch)
    torch.testing.assert_close(torch.func.vmap(torch.func.grad(loss))(x[:, 0]), expected)
    jacobian = torch.autograd.functional.jacobian(activation, x[0])
    torch.testing.assert_close(torch.func.jacrev(activation)(x[0]), jacobian)
    torch.testing.assert_close(torch.func.jacfwd(activation)(x[0]), jacobian)


@by_activation
def test_forward_mode_is_the_transpose_of_backward(name: str) -> None:
    activation = functools.partial(ACTIVATIONS[name][0], alpha=0.1)
    x, tangent, upstream = (sample(2, 3, 4, 4, seed=seed) for seed in range(3))
    _, jvp = torch.func.jvp(activation, (x,), (tangent,))
    _, vjp = torch.func.vjp(activation, x)
    torch.testing.assert_close((jvp * upstream).sum(), (vjp(upstream)[0] * tangent).sum())


# --- compiled ---------------------------------------------------------------------------------------------------------


def check_compiled(backend: str, name: str, x: Tensor, tolerance: float) -> None:
    torch.compiler.reset()
    activation, _ = ACTIVATIONS[name]
    compiled = torch.compile(activation, fullgraph=True, backend=backend)
    results = []
    for fn in (activation, compiled):
        leaf = x.detach().requires_grad_()
        y = fn(leaf)
        y.backward(x.detach())
        assert leaf.grad is not None
        results.append((y.detach(), leaf.grad))
    for eager, other in zip(*results, strict=True):
        assert_close(other, array(eager), tolerance)
        assert other.stride() == eager.stride()


@by_activation
@pytest.mark.parametrize("channels_last", [False, True])
def test_compiles_without_a_graph_break(name: str, channels_last: bool) -> None:
    x = sample(4, 6, 5, 7, dtype=torch.float32)
    check_compiled("aot_eager", name, x.to(memory_format=torch.channels_last) if channels_last else x, 1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["la_silu", "la_hardsilu"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("channels_last", [False, True])
def test_compiled_code_agrees(name: str, dtype: torch.dtype, channels_last: bool) -> None:
    x = sample(4, 6, 5, 7, dtype=dtype)
    x = x.to(memory_format=torch.channels_last) if channels_last else x
    check_compiled("inductor", name, x, 4 * TOLERANCES[dtype])


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


# --- Definition 3.1 ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "scale",
    ["sigmoid", "hardsigmoid", pytest.param(arctan_scale, id="arctan"), pytest.param(torch.nn.Sigmoid(), id="module")],
)
def test_check_scale_passes(scale: LF.Scale) -> None:
    LF.check_scale(scale)


FAULTS: dict[str, tuple[Callable[[Tensor], Tensor], str]] = {
    "at zero": (lambda n: torch.sigmoid(n + 1), r"scale\(0\) must be 1/2, got 0\.73"),
    "above one": (lambda n: torch.sigmoid(n) * 2 - 0.5, r"not bounded by 0 and 1: s\(.*\) = (1\.5|-0\.5)"),
    "unbounded, slowly": (lambda n: 0.5 + 1e-3 * n, r"not bounded by 0 and 1: s\(-?10000\)"),
    "falling": (lambda n: torch.sigmoid(-n), r"not increasing: it falls fastest near n = -?0(\.0\d*)?, slope -0\.25"),
    "dip": (lambda n: torch.sigmoid(n) - 0.2 * torch.exp(-((n - 4) ** 2)), r"falls fastest near n = 3\.\d+, slope"),
    "constant": (lambda n: torch.full_like(n, 0.5), "not increasing: it is constant, s = 0.5"),
    "jump off zero": (lambda n: torch.where(n > 5, 0.6, 0.5).to(n), r"not Lipschitz continuous.* near n = (4\.99|5)"),
    "vertical tangent": (
        lambda n: (0.5 + 0.3 * n.sign() * n.abs().sqrt()).clamp(0, 1),
        r"not Lipschitz continuous: slope .* near n = -?\d",
    ),
    "steep": (lambda n: torch.sigmoid(1000 * n), r"not Lipschitz continuous: slope 250 near"),
    "reduces": (lambda n: n.mean(), r"not elementwise: \[\d+\] values in, \[\] out"),
    "looks around": (lambda n: torch.softmax(n, 0), "not elementwise: its value at n changes with the other"),
    "nan": (lambda n: torch.where(n > 3, math.nan, torch.sigmoid(n)), r"not finite at n = 3\.00"),
    "overflow": (lambda n: n.exp() / (1 + n.exp()), r"not finite at n = \d"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_check_scale_names_the_condition_that_fails(fault: str) -> None:
    scale, message = FAULTS[fault]
    with pytest.raises(ValueError, match=message):
        LF.check_scale(scale)


def test_check_scale_takes_another_lipschitz_constant() -> None:
    LF.check_scale(lambda n: torch.sigmoid(1000 * n), max_slope=251)
    with pytest.raises(ValueError, match="Lipschitz"):
        LF.check_scale("sigmoid", max_slope=0.2)
