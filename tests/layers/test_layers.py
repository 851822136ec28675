"""The modules of `timm_layeract.layers`: equal to `functional`, exportable, copyable; the lazily affine variant."""

import copy
import functools
import io
import pickle
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import timm_layeract.functional as LF
from timm_layeract import LAHardSiLU, LASiLU, LayerAct, LazyLayerAct

MODULES: dict[str, Callable[[], nn.Module]] = {
    "LASiLU": LASiLU,
    "LAHardSiLU": LAHardSiLU,
    "LayerAct": functools.partial(LayerAct, "hardsigmoid", alpha=0.1),
    "affine": functools.partial(LayerAct, num_channels=3),
}
by_module = pytest.mark.parametrize("name", MODULES)
by_format = pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last], ids=str)


def build(name: str) -> nn.Module:
    module = MODULES[name]()
    with torch.no_grad():
        for i, parameter in enumerate(module.parameters()):
            parameter.copy_(torch.tensor([0.5, -1.5, 2.0]) + i)
    return module


def images(*shape: int, memory_format: torch.memory_format = torch.contiguous_format) -> Tensor:
    x = torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape))) * 3 + 1
    return x.to(memory_format=memory_format)


class ConvNet(nn.Module):
    """Two convolutions, the second with a stride, so that the activation meets sizes that are derived."""

    def __init__(self, activation: nn.Module) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 3, 3, padding=1)
        self.act1 = activation
        self.conv2 = nn.Conv2d(3, 3, 3, stride=2)
        self.act2 = copy.deepcopy(activation)

    def forward(self, x: Tensor) -> Tensor:
        return self.act2(self.conv2(self.act1(self.conv1(x))))


# --- what they compute ------------------------------------------------------------------------------------------------


def test_modules_are_their_functions() -> None:
    x = images(2, 3, 5, 7)
    weight, bias = torch.tensor([0.5, -1.5, 2.0]), torch.tensor([1.5, -0.5, 3.0])
    assert torch.equal(LASiLU(0.3)(x), LF.la_silu(x, 0.3))
    assert torch.equal(LAHardSiLU(0.3)(x), LF.la_hardsilu(x, 0.3))
    assert torch.equal(LayerAct("hardsigmoid", 0.3)(x), LF.la_hardsilu(x, 0.3))
    torch.testing.assert_close(LayerAct(torch.sigmoid, 0.3)(x), LF.la_silu(x, 0.3))
    assert torch.equal(build("affine")(x), LF.layer_act(x, weight=weight, bias=bias))


def test_defaults_are_those_of_the_paper() -> None:
    assert LASiLU().alpha == LAHardSiLU().alpha == LayerAct().alpha == LF.DEFAULT_ALPHA == 1e-5
    assert LayerAct().scale == "sigmoid"


def test_fresh_affine_is_plain() -> None:
    x = images(2, 3, 5, 7)
    torch.testing.assert_close(LayerAct(num_channels=3)(x), LF.la_silu(x))


@pytest.mark.parametrize("module", [LASiLU, LAHardSiLU, LayerAct, LazyLayerAct])
def test_inplace_is_accepted_and_ignored(module: Callable[..., nn.Module]) -> None:
    x = images(2, 3, 5, 7)
    before = x.clone()
    y = module(inplace=True)(x)
    assert y is not x
    assert torch.equal(x, before)


@by_module
@by_format
def test_evaluation_mode_computes_and_differentiates_alike(name: str, memory_format: torch.memory_format) -> None:
    module, x = build(name), images(2, 3, 5, 7, memory_format=memory_format)
    results = []
    for mode in (True, False):
        leaf = x.detach().requires_grad_()
        y = module.train(mode)(leaf)
        y.square().sum().backward()
        results.append((y.detach(), leaf.grad))
    for trained, evaluated in zip(*results, strict=True):
        assert torch.equal(trained, evaluated)
        assert evaluated.is_contiguous(memory_format=memory_format)


@pytest.mark.parametrize("alpha", [0.0, -1.0, float("nan"), True])
@pytest.mark.parametrize("module", [LASiLU, LAHardSiLU, functools.partial(LayerAct, "sigmoid")])
def test_alpha_must_be_a_positive_number(module: Callable[..., nn.Module], alpha: float) -> None:
    # True is `inplace` given by position, as nn.ReLU(True) allows: it must not become alpha = 1.
    with pytest.raises(ValueError, match=f"positive number, got {alpha}"):
        module(alpha)


def test_unknown_scale_fails_when_built() -> None:
    with pytest.raises(ValueError, match="Unknown scale 'sigmoyd'"):
        LayerAct("sigmoyd")


def test_repr_shows_what_matters() -> None:
    assert repr(LASiLU(0.1)) == "LASiLU(scale=sigmoid, alpha=0.1)"
    assert repr(LayerAct(torch.nn.functional.hardsigmoid, num_channels=3)) == (
        "LayerAct(scale=hardsigmoid, alpha=1e-05, affine=True)"
    )
    assert repr(LazyLayerAct()) == "LazyLayerAct(scale=sigmoid, alpha=1e-05, affine=True)"


# --- copies -----------------------------------------------------------------------------------------------------------


@by_module
def test_deepcopy_and_pickle(name: str) -> None:
    module, x = build(name), images(2, 3, 5, 7)
    buffer = io.BytesIO()
    torch.save(module, buffer)
    buffer.seek(0)
    copies = [copy.deepcopy(module), pickle.loads(pickle.dumps(module)), torch.load(buffer, weights_only=False)]
    for other in copies:
        assert type(other) is type(module)
        assert torch.equal(other(x), module(x))


# --- compiled, exported, scripted -------------------------------------------------------------------------------------


@by_module
@by_format
def test_compiles_without_a_graph_break(name: str, memory_format: torch.memory_format) -> None:
    torch.compiler.reset()
    torch.manual_seed(0)
    net, x = ConvNet(build(name)), images(2, 3, 16, 18, memory_format=memory_format)
    compiled = torch.compile(net, fullgraph=True, backend="aot_eager")
    expected = torch.autograd.grad(net(x).square().sum(), list(net.parameters()))
    actual = torch.autograd.grad(compiled(x).square().sum(), list(net.parameters()))
    torch.testing.assert_close(compiled(x), net(x))
    torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-4)  # sums over hundreds of positions


def dynamic(least: int) -> tuple[dict[int, torch.export.Dim]]:
    dims = torch.export.Dim("batch"), torch.export.Dim("height", min=least), torch.export.Dim("width", min=least)
    return (dict(zip((0, 2, 3), dims, strict=True)),)


@by_module
@by_format
def test_exports_with_dynamic_batch_and_size(name: str, memory_format: torch.memory_format) -> None:
    module = build(name).eval()
    example = images(2, 3, 16, 18, memory_format=memory_format)
    exported = torch.export.export(module, (example,), dynamic_shapes=dynamic(1)).module()
    for shape in ((5, 3, 12, 20), (1, 3, 7, 9), (3, 3, 1, 1)):
        for given in (torch.contiguous_format, torch.channels_last):
            x = images(*shape, memory_format=given)
            torch.testing.assert_close(exported(x), module(x))


@by_module
@by_format
def test_network_exports_with_dynamic_batch_and_size(name: str, memory_format: torch.memory_format) -> None:
    net = ConvNet(build(name)).eval().to(memory_format=memory_format)
    example = images(2, 3, 16, 18, memory_format=memory_format)
    exported = torch.export.export(net, (example,), dynamic_shapes=dynamic(5)).module()
    for shape in ((5, 3, 12, 20), (1, 3, 7, 9), (3, 3, 11, 8)):
        x = images(*shape)
        torch.testing.assert_close(exported(x), net(x))


@pytest.mark.parametrize(
    ("name", "memory_format"),
    [
        *((name, torch.contiguous_format) for name in ("LASiLU", "LAHardSiLU", "affine")),
        pytest.param("LASiLU", torch.channels_last, marks=pytest.mark.slow),
        pytest.param("affine", torch.channels_last, marks=pytest.mark.slow),
    ],
    ids=str,
)
def test_onnx_runtime_agrees(name: str, memory_format: torch.memory_format, tmp_path: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    net = ConvNet(build(name)).eval().to(memory_format=memory_format)
    example = images(2, 3, 16, 18, memory_format=memory_format)
    program = torch.onnx.export(net, (example,), dynamo=True, dynamic_shapes=dynamic(5), verbose=False)
    assert program is not None
    path = tmp_path / "net.onnx"
    program.save(path)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    for shape in ((5, 3, 12, 20), (1, 3, 7, 9)):
        x = images(*shape)
        (y,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
        torch.testing.assert_close(torch.from_numpy(y), net(x).detach(), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", ["LASiLU", "LAHardSiLU"])
def test_torchscript(name: str, tmp_path: Path) -> None:
    net = ConvNet(build(name))
    scripted = torch.jit.script(net)
    torch.jit.save(scripted, str(tmp_path / "net.pt"))
    scripted = torch.jit.load(str(tmp_path / "net.pt"))
    for memory_format in (torch.contiguous_format, torch.channels_last):
        for shape in ((2, 3, 8, 9), (1, 3, 5, 5)):
            x = images(*shape, memory_format=memory_format)
            torch.testing.assert_close(scripted(x), net(x))
    alone = torch.jit.script(build(name))
    x = images(2, 3, 8, 9).requires_grad_()
    torch.testing.assert_close(
        torch.autograd.grad(alone(x).square().sum(), x), torch.autograd.grad(build(name)(x).square().sum(), x)
    )
    for shape, dtype, message in (([3], torch.float32, "got \\[3\\]"), ([3, 3], torch.int64, "floating-point input")):
        with pytest.raises(torch.jit.Error, match=message):
            alone(torch.ones(shape, dtype=dtype))


# --- the lazily affine variant ----------------------------------------------------------------------------------------


def trained_lazy() -> nn.Module:
    module = LazyLayerAct("hardsigmoid", alpha=0.1)
    module(images(2, 3, 4, 4))
    with torch.no_grad():
        module.weight.copy_(torch.tensor([0.5, -1.5, 2.0]))
        module.bias.copy_(torch.tensor([0.25, 0.5, -1.0]))
    return module


@pytest.mark.parametrize("shape", [(2, 3), (2, 3, 5), (2, 3, 4, 4), (0, 3, 4, 4), (1, 3, 2, 2, 2)], ids=str)
def test_lazy_becomes_a_layer_act_at_its_first_input(shape: tuple[int, ...]) -> None:
    module = LazyLayerAct("hardsigmoid", alpha=0.1)
    assert module.has_uninitialized_params()
    x = images(*shape)
    torch.testing.assert_close(module(x), LF.la_hardsilu(x, 0.1))
    assert type(module) is LayerAct
    assert module.weight is not None
    assert module.bias is not None
    assert torch.equal(module.weight, torch.ones(3))
    assert torch.equal(module.bias, torch.zeros(3))


def test_lazy_is_not_spoilt_by_a_bad_first_input() -> None:
    module = LazyLayerAct()
    with pytest.raises(ValueError, match=r"got \[3\]"):
        module(torch.randn(3))
    with pytest.raises(TypeError, match="floating-point"):
        module(torch.ones(2, 3, dtype=torch.int64))
    assert module(images(2, 5, 4)).shape == (2, 5, 4)


def test_lazy_state_dict_before_and_after() -> None:
    before, after = LazyLayerAct("hardsigmoid", alpha=0.1).state_dict(), trained_lazy().state_dict()
    assert list(before) == list(after) == ["weight", "bias"]
    buffer = io.BytesIO()
    torch.save(after, buffer)
    buffer.seek(0)
    after = torch.load(buffer)
    x = images(4, 3, 5, 5)
    for fresh in (LazyLayerAct("hardsigmoid", alpha=0.1), LayerAct("hardsigmoid", alpha=0.1, num_channels=3)):
        assert str(fresh.load_state_dict(after, strict=True)) == "<All keys matched successfully>"
        assert torch.equal(fresh(x), trained_lazy()(x))  # its first forward keeps what was loaded
        assert type(fresh) is LayerAct


def test_lazy_unmaterialised_loads_unmaterialised() -> None:
    module = LazyLayerAct()
    module.load_state_dict(LazyLayerAct().state_dict(), strict=True)
    assert module(images(2, 4, 3)).shape == (2, 4, 3)


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda module: pickle.loads(pickle.dumps(module))])
def test_lazy_copies(copied: Callable[[nn.Module], nn.Module]) -> None:
    fresh = LazyLayerAct("hardsigmoid", alpha=0.1)
    other = copied(fresh)
    x = images(2, 3, 4, 4)
    torch.testing.assert_close(other(x), LF.la_hardsilu(x, 0.1))
    assert fresh.has_uninitialized_params()  # the copy's first forward is the copy's alone
    trained = trained_lazy()
    assert torch.equal(copied(trained)(x), trained(x))


def test_lazy_parameters_reach_the_optimizer_after_the_first_forward() -> None:
    net = nn.Sequential(nn.Conv2d(3, 6, 3), LazyLayerAct(), nn.Conv2d(6, 2, 3), LazyLayerAct("hardsigmoid"))
    x = images(4, 3, 9, 9)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        net(x)
    assert [type(net[i]) for i in (1, 3)] == [LayerAct, LayerAct]
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    assert sum(p.numel() for p in net.parameters()) == 3 * 6 * 9 + 6 + 12 + 6 * 2 * 9 + 2 + 4
    before = copy.deepcopy(net.state_dict())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = net(x).float().square().mean()
    loss.backward()
    optimizer.step()
    for name, value in net.state_dict().items():
        assert value.dtype == torch.float32
        assert not torch.equal(value, before[name]), name


def test_lazy_takes_dtype_and_conversion() -> None:
    for module in (LazyLayerAct(dtype=torch.float64), LazyLayerAct().double()):
        module(images(2, 3, 4).double())
        assert module.weight.dtype == module.bias.dtype == torch.float64
