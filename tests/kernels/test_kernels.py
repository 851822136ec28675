"""`timm_layeract.kernels`: every fused LayerAct against the float64 oracle, and when which of them runs."""

import copy
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

import timm_layeract.functional as LF
from tests.oracle import layer_act_reference
from timm_layeract import kernels
from timm_layeract.definition import composite
from timm_layeract.errors import UserError
from timm_layeract.kernels import cpu

BACKENDS = ["cpu", "triton"]
SHAPES = [
    (4, 7), (1, 5), (3, 2), (2, 3, 5), (2, 5, 7, 3), (1, 4, 3, 3), (3, 6, 1, 1), (1, 1, 2, 1), (5, 17, 13, 11),
    (2, 3, 2, 3, 5), (2, 37, 5, 5), (1, 3, 101, 97), (3, 20, 31, 29),
]  # fmt: skip
LARGE = [(1, 3, 101, 97), (3, 20, 31, 29)]  # more than a Triton block; more than one thread's worth
FORMATS = {4: torch.channels_last, 5: torch.channels_last_3d}
TOLERANCES = {torch.float32: 3e-6, torch.bfloat16: 8e-3}


def sample(*shape: int, seed: int = 0) -> Tensor:
    """Samples of different mean and spread."""
    x = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
    return x * torch.linspace(0.5, 3, shape[0]).view(-1, *[1] * (len(shape) - 1)) + 1


def assert_close(actual: Tensor, expected: np.ndarray, tolerance: float) -> None:
    error = np.abs(actual.detach().double().numpy() - expected).max() / max(np.abs(expected).max(), 1e-30)
    assert error <= tolerance, f"relative error {error:.3g} above {tolerance:g}"


def compare(x: Tensor, scale: str, affine: bool = False) -> None:
    """Value and gradients of the fused kernel at x against the oracle."""
    shape = x.shape
    weight, bias = torch.randn(2, shape[1], generator=torch.Generator().manual_seed(3)) if affine else (None, None)
    n = layer_act_reference(x.double().numpy(), scale, 1e-5).normalized
    if affine:
        view = (-1,) + (1,) * (x.dim() - 2)
        n = n * weight.view(view).numpy() + bias.view(view).numpy()
    g = torch.randn(shape, generator=torch.Generator().manual_seed(7))
    g = g * torch.from_numpy(np.abs(np.abs(n) - 3) > 0.1)  # zero next to the corners of hardsigmoid
    g = torch.empty_like(x).copy_(g)
    inputs = [x.detach().requires_grad_()]
    if affine:
        weight, bias = weight.requires_grad_(), bias.requires_grad_()
        inputs += [weight, bias]
    y = LF.layer_act(inputs[0], scale, 1e-5, weight, bias)
    assert "FusedLayerAct" in type(y.grad_fn).__name__
    grads = torch.autograd.grad(y, inputs, g)
    parameters = [p.detach().double().numpy() for p in inputs[1:]]
    expected = layer_act_reference(x.double().numpy(), scale, 1e-5, g.double().numpy(), *parameters)
    tolerance = TOLERANCES[x.dtype]
    assert y.dtype == grads[0].dtype == x.dtype
    assert y.stride() == grads[0].stride() == x.stride()
    assert_close(y, expected.value, tolerance)
    for actual, wanted in zip(grads, (expected.grad, expected.grad_weight, expected.grad_bias), strict=False):
        assert wanted is not None
        assert_close(actual, wanted, 4 * tolerance)


# --- value and gradient -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", TOLERANCES, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("scale", ["sigmoid", "hardsigmoid"])
@pytest.mark.parametrize("affine", [False, True], ids=["plain", "affine"])
def test_value_and_gradient(backend: str, shape: tuple[int, ...], dtype: torch.dtype, scale: str, affine: bool) -> None:
    x = sample(*shape).to(dtype)
    compare(x, scale, affine)
    if x.dim() in FORMATS:
        compare(x.contiguous(memory_format=FORMATS[x.dim()]), scale, affine)


@pytest.mark.skipif(not cpu.available(), reason="the CPU kernels were not built")
@pytest.mark.parametrize("threads", [2, 3, 4])
@pytest.mark.parametrize("shape", [(1, 33, 64, 61), (3, 16, 64, 61), (8, 16, 32, 33)], ids=str)
def test_any_number_of_threads(threads: int, shape: tuple[int, ...]) -> None:
    torch.set_num_threads(threads)
    try:
        for affine in (False, True):
            compare(sample(*shape), "sigmoid", affine)
            compare(sample(*shape).contiguous(memory_format=torch.channels_last), "sigmoid", affine)
    finally:
        torch.set_num_threads(1)


@pytest.mark.skipif(not cpu.available(), reason="the CPU kernels were not built")
def test_every_instruction_set_that_this_machine_has(monkeypatch: pytest.MonkeyPatch) -> None:
    narrower = cpu.INSTRUCTION_SETS[cpu.INSTRUCTION_SETS.index(cpu._instruction_set()) :]
    loaded = set()
    for name in narrower:
        monkeypatch.setattr(cpu, "_instruction_set", lambda name=name: name)
        library = cpu._load()
        loaded.add(library._name)
        monkeypatch.setattr(cpu, "_library", library)
        for dtype in TOLERANCES:
            for scale in ("sigmoid", "hardsigmoid"):
                compare(sample(3, 17, 7, 9).to(dtype), scale, affine=True)
                compare(sample(3, 17, 7, 9).to(dtype, memory_format=torch.channels_last), scale, affine=True)
    assert len(loaded) == len(narrower)


# --- numerics ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mean", [1e4, -1e6])
@pytest.mark.parametrize("shape", [(4, 16, 16, 16), (2, 8, 50, 50)], ids=str)
def test_large_mean_keeps_the_variance(backend: str, mean: float, shape: tuple[int, ...]) -> None:
    for memory_format in (torch.contiguous_format, torch.channels_last):
        x = (torch.randn(shape, generator=torch.Generator().manual_seed(0)) + mean).to(memory_format=memory_format)
        expected = layer_act_reference(x.double().numpy(), "sigmoid", 1e-5)
        assert_close(LF.la_silu(x), expected.value, 1e-6)
        assert_close(LF.la_silu(x) / x, expected.value / x.double().numpy(), 1e-5)


def test_outlier_first(backend: str) -> None:
    x = sample(2, 3, 80, 80)
    x[:, 0, 0, 0] = 1e6
    compare(x, "sigmoid")


def test_constant_sample_gives_half_and_finite_gradients(backend: str) -> None:
    for shape in [(2, 3, 5, 5), (2, 8, 50, 50)]:
        x = torch.full(shape, 7.3, requires_grad=True)
        y = LF.la_silu(x)
        torch.testing.assert_close(y, x / 2)
        (grad,) = torch.autograd.grad(y.sum(), x)
        torch.testing.assert_close(grad, torch.full_like(x, 0.5), atol=2e-4, rtol=0)


@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")  # numpy's, under the interpreter
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("dtype", TOLERANCES, ids=str)
@pytest.mark.parametrize("scale", ["sigmoid", "hardsigmoid"])
def test_nan_and_infinity_travel_as_in_the_composite(
    backend: str, value: float, dtype: torch.dtype, scale: str
) -> None:
    for shape in [(3, 2, 5, 7), (3, 2, 93, 97)]:
        x = sample(*shape).to(dtype)
        x[1, 1, 3, 2] = value
        x = x.requires_grad_()
        (grad,) = torch.autograd.grad(LF.layer_act(x, scale).sum(), x)
        for actual, expected in (
            (LF.layer_act(x, scale), composite.layer_act(x, scale)),
            (grad, torch.autograd.grad(composite.layer_act(x, scale).sum(), x)[0]),
        ):
            assert torch.equal(actual.isfinite(), expected.isfinite())
            assert torch.equal(actual.isnan(), expected.isnan())


@pytest.mark.parametrize("shape", [(0, 3), (0, 3, 4, 4), (2, 0, 3, 3)], ids=str)
def test_empty(backend: str, shape: tuple[int, ...]) -> None:
    x = torch.empty(shape, requires_grad=True)
    y = LF.la_silu(x)
    assert y.shape == x.shape
    (grad,) = torch.autograd.grad(y.sum(), x)
    assert grad.shape == x.shape


@pytest.mark.parametrize("affine", [False, True], ids=["plain", "affine"])
def test_second_derivative_is_the_composite_s(backend: str, affine: bool) -> None:
    results = []
    for function in (LF.layer_act, composite.layer_act):
        inputs = [sample(2, 3, 4, 5).requires_grad_()]
        inputs += [torch.tensor([0.5, -1.0, 2.0], requires_grad=True) for _ in range(2 * affine)]
        y = function(inputs[0], "sigmoid", 1e-5, *inputs[1:])
        first = torch.autograd.grad(y.square().sum(), inputs, create_graph=True)
        results.append(torch.autograd.grad(sum(g.square().sum() for g in first), inputs))
    for actual, expected in zip(*results, strict=True):
        torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-4)


def test_upstream_gradient_in_another_layout(backend: str) -> None:
    x = sample(2, 3, 4, 5).requires_grad_()
    expected = torch.autograd.grad(composite.la_silu(x).mean(), x)[0]  # mean sends an expanded scalar back
    torch.testing.assert_close(torch.autograd.grad(LF.la_silu(x).mean(), x)[0], expected)


def test_keeps_the_input_and_two_numbers_a_sample(backend: str) -> None:
    kept: list[Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        for shape in [(3, 4, 5, 6), (2, 8, 50, 50)]:
            kept.clear()
            x = sample(*shape).requires_grad_()
            LF.la_silu(x)
            assert sorted(t.numel() for t in kept) == [2 * shape[0], x.numel()]
            assert any(t.data_ptr() == x.data_ptr() for t in kept)


def test_no_gradient_keeps_nothing_and_matches(backend: str) -> None:
    x = sample(2, 3, 5, 7)
    with torch.no_grad():
        torch.testing.assert_close(LF.la_silu(x), composite.la_silu(x))


# --- which backend runs -----------------------------------------------------------------------------------------------


def test_backend_is_visible(backend: str) -> None:
    assert kernels.backend_for(torch.ones(2, 3)) == backend


def test_composite_runs_where_kernels_cannot(backend: str) -> None:
    x = torch.ones(4, 6, 8)
    for other in (
        x.double(),
        *([x.half()] if backend == "cpu" else []),
        x[:, ::2],
        x.transpose(1, 2),
        torch.ones(3),
        torch.ones(0, 3),
        torch.ones(3, 1),
        x.to("meta"),
    ):
        assert kernels.backend_for(other) == "composite"
    seen: list[str] = []

    def look(t: Tensor) -> Tensor:
        seen.append(kernels.backend_for(t))
        return LF.la_silu(t)

    torch.func.vmap(look)(x)
    torch.func.jvp(look, (x,), (x,))
    torch.func.grad(lambda t: look(t).sum())(x)
    with torch.autograd.forward_ad.dual_level():
        look(torch.autograd.forward_ad.make_dual(x, x))
    torch.jit.trace(look, x, check_trace=False)
    torch.compile(look, backend="eager", fullgraph=True)(x)
    assert set(seen) == {"composite"}


def test_compiled_graph_holds_the_composite(backend: str) -> None:
    graphs = []
    torch.compile(LF.la_silu, backend=lambda graph, _: graphs.append(graph) or graph.forward, fullgraph=True)(
        torch.ones(2, 3)
    )
    assert "layer_norm" in str(graphs[0].graph)


def test_custom_scale_runs_the_composite(backend: str) -> None:
    y = LF.layer_act(torch.ones(2, 3, requires_grad=True), torch.sigmoid)
    assert "Fused" not in type(y.grad_fn).__name__


def test_copies_of_modules_and_tensors_still_fuse(backend: str) -> None:
    x = copy.deepcopy(torch.nn.Parameter(torch.ones(2, 3)))
    assert kernels.backend_for(x) == backend


@pytest.mark.parametrize(
    ("setting", "prints", "fails"),
    [
        ("composite", "composite", ""),
        ("cpu", "cpu", ""),
        ("triton", "triton", ""),
        ("", "cpu", ""),
        ("cuda", "", "LAYERACT_BACKEND is 'cuda'"),
    ],
)
def test_backend_is_forced_by_the_environment(setting: str, prints: str, fails: str) -> None:
    if prints == "cpu" and not cpu.available():
        pytest.skip("the CPU kernels were not built")
    code = "import torch, timm_layeract; print(timm_layeract.kernels.backend_for(torch.ones(2, 3)))"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "LAYERACT_BACKEND": setting, "TRITON_INTERPRET": "1"},
        capture_output=True,
        text=True,
    )
    assert done.stdout.strip() == prints
    assert fails in done.stderr
    assert (done.returncode == 0) == (not fails)


def test_unavailable_backend_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu, "_library", None)
    with pytest.raises(UserError, match="C compiler"), kernels.use_backend("cpu"):
        pass
    assert kernels.backend_for(torch.ones(2, 3)) == "composite"
    with pytest.raises(UserError, match="did you mean 'triton'"), kernels.use_backend("tritn"):  # type: ignore[arg-type]
        pass


@pytest.mark.slow
def test_installs_and_runs_without_a_compiler(tmp_path: Path) -> None:
    root = Path(__file__).parents[2]
    source = tmp_path / "source"
    source.mkdir()
    tracked = subprocess.run(["git", "ls-files"], cwd=root, capture_output=True, text=True, check=True).stdout
    for name in tracked.splitlines():
        if name.startswith(("timm_layeract/", "pyproject", "setup", "README", "LICENSE")):
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            (source / name).write_bytes((root / name).read_bytes())
    subprocess.run(
        [sys.executable, "-m", "pip", "install", "--no-build-isolation", "--no-deps", "--no-index", "--quiet",
         "--target", str(tmp_path / "installed"), str(source)],
        env={**os.environ, "CC": "/bin/false"}, check=True, capture_output=True,
    )  # fmt: skip
    assert not list((tmp_path / "installed").rglob("layeract_*.so"))
    code = (
        "import torch, timm, timm_layeract; from timm_layeract import kernels; x = torch.randn(2, 3, 32, 32);"
        "print(timm_layeract.__file__, kernels.backend_for(x));"
        "timm.create_model('resnet20_lasilu')(x).sum().backward()"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path / "installed", capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    file, name = done.stdout.split()
    assert file.startswith(str(tmp_path))
    assert name == "composite"
