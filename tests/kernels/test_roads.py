"""The two roads of LayerAct that are no kernels of ours: compiled by torch, and recomputed in backward."""

import warnings

import pytest
import torch
from torch import Tensor, nn

import timm_layeract.functional as LF
from timm_layeract import LASiLU, kernels
from timm_layeract.definition import composite
from timm_layeract.kernels import compiled, dispatch, measured
from timm_layeract.layers.batch_norm_act import norm_act

LAYOUTS = [torch.contiguous_format, torch.channels_last]


def results(function: object, x: Tensor, g: Tensor, scale: str, *parameters: Tensor) -> list[Tensor]:
    inputs = [t.detach().requires_grad_() for t in (x, *parameters)]
    y = function(inputs[0], scale, 1e-3, *inputs[1:])  # type: ignore[operator]
    return [y, *torch.autograd.grad(y, inputs, g)]


@pytest.fixture
def uncompiled(monkeypatch: pytest.MonkeyPatch) -> None:
    """The compiled road's operations as they are: what a compiler makes of them is tested once."""
    monkeypatch.setattr(compiled, "_compiled", {})
    monkeypatch.setattr(torch, "compile", lambda function, **_: function)


@pytest.mark.usefixtures("uncompiled")
@pytest.mark.parametrize("affine", [False, True], ids=["plain", "affine"])
@pytest.mark.parametrize("scale", ["sigmoid", "hardsigmoid"])
@pytest.mark.parametrize("backend", ["compiled", "composite"])
def test_value_and_gradient(backend: str, scale: str, affine: bool) -> None:
    for shape in [(3, 7), (2, 5, 6, 7), (4, 3, 5)]:
        for dtype, tolerance in ((torch.float32, 4e-6), (torch.bfloat16, 3e-2), (torch.float16, 4e-3)):
            for layout in LAYOUTS if len(shape) == 4 else LAYOUTS[:1]:
                for offset in (0.0, 100.0):
                    x, g = (torch.randn(shape).to(dtype).contiguous(memory_format=layout) for _ in range(2))
                    x = x + offset
                    n = composite.layer_normalize(x.double(), 1e-3)
                    parameters = [torch.rand(shape[1]) + 0.5, torch.randn(shape[1])] if affine else []
                    per_channel = (-1,) + (1,) * (len(shape) - 2)
                    t = n * parameters[0].view(per_channel) + parameters[1].view(per_channel) if affine else n
                    g = g * ((t.abs() - 3).abs() > 0.1).to(dtype)  # zero next to the corners of hardsigmoid
                    with kernels.use_backend(backend):  # type: ignore[arg-type]
                        found = results(LF.layer_act, x, g, scale, *parameters)
                    exact = [p.double() for p in parameters]
                    wanted = results(composite.layer_act, x.double(), g.double(), scale, *exact)
                    assert found[0].dtype == found[1].dtype == dtype
                    assert found[0].stride() == found[1].stride() == x.stride()
                    for a, b in zip(found, wanted, strict=True):
                        error = float((a.double() - b).detach().abs().max() / b.detach().abs().max())
                        # The definition rounds n itself to 16 bits, and more coarsely where the mean is large.
                        rounds = backend == "composite" and offset and dtype.itemsize == 2
                        assert error <= tolerance * (30 if rounds else 1)


@pytest.mark.usefixtures("uncompiled")
@pytest.mark.parametrize("backend", ["compiled", "composite"])
def test_keeps_the_input_and_at_most_two_numbers_a_sample(backend: str) -> None:
    kept: list[Tensor] = []
    x = torch.randn(3, 4, 5, 6, requires_grad=True)
    with (
        kernels.use_backend(backend),  # type: ignore[arg-type]
        torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t),
    ):
        LF.la_silu(x)
    assert [t.data_ptr() for t in kept if t.numel() == x.numel()] == [x.data_ptr()]
    assert sum(t.numel() for t in kept) <= x.numel() + 2 * len(x)


def test_recomputed_derivatives_of_every_kind() -> None:
    x = torch.randn(2, 3, 4, dtype=torch.float64, requires_grad=True)
    weight = torch.rand(3, dtype=torch.float64, requires_grad=True)
    with kernels.use_backend("composite"):
        assert "Recomputed" in type(LF.layer_act(x, "sigmoid", 1e-3, weight, weight).grad_fn).__name__
        call = lambda x, weight: LF.layer_act(x, "sigmoid", 1e-3, weight, weight)  # noqa: E731
        torch.autograd.gradcheck(call, (x, weight))
        torch.autograd.gradgradcheck(call, (x, weight))
        torch.autograd.gradcheck(LF.la_silu, x, check_forward_ad=True)
        plain = x.detach()
        batched = torch.func.vmap(torch.func.grad(lambda t: LF.la_silu(t).square().sum()))(plain[:, None])
        alone = torch.func.grad(lambda t: LF.la_silu(t).square().sum())(plain)
    torch.testing.assert_close(batched[:, 0], alone)


@pytest.mark.usefixtures("uncompiled")
@pytest.mark.parametrize("backend", ["compiled", "composite"])
def test_a_gradient_keeps_no_graph_of_its_own(backend: str) -> None:
    x = torch.randn(2, 3, 4, requires_grad=True)
    with kernels.use_backend(backend):  # type: ignore[arg-type]
        (grad,) = torch.autograd.grad(LF.la_silu(x).sum(), x)
    assert not grad.requires_grad
    assert grad.grad_fn is None


def test_recomputed_under_autocast_as_it_was_computed() -> None:
    def once(function: object) -> list[Tensor]:
        x = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(0)).bfloat16().requires_grad_()
        with torch.autocast("cpu", torch.bfloat16):
            y = function(x)  # type: ignore[operator]
        return [y, *torch.autograd.grad(y.float().square().sum(), x)]

    with kernels.use_backend("composite"):
        for a, b in zip(once(LF.la_silu), once(composite.la_silu), strict=True):
            torch.testing.assert_close(a, b, rtol=0, atol=0)


@pytest.mark.usefixtures("uncompiled")
def test_a_compiled_site_runs_its_batch_norm_by_itself() -> None:
    x, r = torch.randn(2, 3, 4, 4), torch.randn(2, 3, 4, 4)
    norm = nn.BatchNorm2d(3)
    with kernels.use_backend("compiled"):
        y = norm_act(x, norm, LASiLU(), r)
        assert kernels.backend_for(x) == "compiled"
    torch.testing.assert_close(y, composite.la_silu(nn.functional.batch_norm(x, None, None, training=True) + r))


def test_torch_gives_up_on_no_kind_of_tensor(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = torch.compile
    torch._dynamo.reset()
    monkeypatch.setattr(compiled, "_compiled", {})
    monkeypatch.setattr(torch, "compile", lambda function, **more: plain(function, **more, backend="eager"))
    monkeypatch.setattr(torch._dynamo.config, "fail_on_recompile_limit_hit", True)
    with kernels.use_backend("compiled"):
        for dtype in compiled.DTYPES:
            for function in (LF.la_silu, LF.la_hardsilu):
                for inference in (False, True):
                    for shape in ((3, 4, 5), (2, 7), (1, 3)):
                        with torch.inference_mode(inference):
                            x = torch.randn(shape).to(dtype).requires_grad_(not inference)
                            y = function(x, 0.1 * len(shape))
                        if not inference:
                            y.backward(torch.ones_like(y))
                        assert y.dtype == dtype
    assert len(compiled._compiled) == 3 * 2 * 3


@pytest.mark.slow
def test_torch_compiles_it_once_for_all_sizes(monkeypatch: pytest.MonkeyPatch) -> None:
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    monkeypatch.setattr(compiled, "_compiled", {})
    with kernels.use_backend("compiled"):
        for shape in [(3, 4, 5, 6), (5, 2, 9, 7), (2, 7, 8, 3)]:
            x, g = torch.randn(shape), torch.randn(shape)
            found, wanted = (results(f, x, g, "sigmoid") for f in (LF.layer_act, composite.layer_act))
            for a, b in zip(found, wanted, strict=True):
                torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 2


def test_where_torch_cannot_compile_it_says_so_once(monkeypatch: pytest.MonkeyPatch) -> None:
    from torch._dynamo.exc import BackendCompilerFailed

    def fail(*_: object, **__: object) -> object:
        raise BackendCompilerFailed(fail, RuntimeError("no gcc"), None)

    monkeypatch.setattr(compiled, "_compiled", {})
    monkeypatch.setattr(torch, "compile", lambda function, **_: fail)
    x = torch.randn(2, 3, 4)
    with kernels.use_backend("compiled"):
        with pytest.warns(UserWarning, match="no gcc"):
            y = LF.la_silu(x)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            torch.testing.assert_close(LF.la_silu(x), y)
    torch.testing.assert_close(y, composite.la_silu(x))


def test_the_default_on_a_gpu_is_what_was_measured_fastest() -> None:
    assert measured.ON_GPU == dispatch.ON_GPU == min(measured.MEASURED, key=lambda row: row.milliseconds).backend
    assert all(row.card and row.date and row.torch for row in measured.MEASURED)
