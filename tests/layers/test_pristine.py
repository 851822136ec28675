"""A fused block passes by its modules only while nobody could notice: every way that torch has to look at a call."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import timm
import torch
import torch.nn.modules.module as nn_module
from timm.layers import DropPath
from timm.models.resnet import BasicBlock
from torch import Tensor, nn
from torch.nn.utils import parametrize, prune
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from timm_layeract import BatchNormLayerAct2d, LASiLU, LayerAct, fuse, kernels
from timm_layeract.compat.torch import HOOKS
from timm_layeract.kernels import cpu
from timm_layeract.layers.batch_norm_act import norm_act
from timm_layeract.models.resnet_cifar import CifarBlock

pytestmark = pytest.mark.skipif(not cpu.available(), reason="the CPU kernels were not built")

Log = list[str]
# Every method of a module, and function for all modules, that registers a hook -> how many arguments the hook gets.
OF_CALLS = {
    "register_forward_hook": 3,
    "register_forward_pre_hook": 2,
    "register_full_backward_hook": 3,
    "register_full_backward_pre_hook": 2,
    "register_backward_hook": 3,
    "register_module_forward_hook": 3,
    "register_module_forward_pre_hook": 2,
    "register_module_full_backward_hook": 3,
    "register_module_full_backward_pre_hook": 2,
    "register_module_backward_hook": 3,
}
# Those that no call of a module runs.
OF_STATE = {
    "_register_load_state_dict_pre_hook",
    "_register_state_dict_hook",
    "register_load_state_dict_post_hook",
    "register_load_state_dict_pre_hook",
    "register_module_buffer_registration_hook",
    "register_module_module_registration_hook",
    "register_module_parameter_registration_hook",
    "register_state_dict_post_hook",
    "register_state_dict_pre_hook",
}
CHILDREN = ["bn1", "drop_block", "act1", "bn2", "act2", "downsample", "downsample.1"]


class PlainBlock(BasicBlock):
    """timm's block, which adds in place, and so does not run with a backward hook on what it adds to."""

    def forward(self, x: Tensor) -> Tensor:
        y = self.aa(self.act1(self.drop_block(self.bn1(self.conv1(x)))))
        return self.act2(self.bn2(self.conv2(y)) + self.downsample(x))


def block() -> BasicBlock:
    """A timm block all of whose modules do something."""
    torch.manual_seed(0)
    shortcut = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))
    made = BasicBlock(3, 4, downsample=shortcut, act_layer=LASiLU)
    for module in made.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor in (module.weight, module.bias, module.running_var):
                nn.init.uniform_(tensor, 0.5, 1.5)
    return made


def images() -> Tensor:
    return torch.randn(2, 3, 5, 6, generator=torch.Generator().manual_seed(1))


def run(model: nn.Module) -> list[Tensor]:
    x = images().requires_grad_()
    y = model(x)
    y.square().sum().backward()
    return [y.detach(), x.grad, *(p.grad for p in model.parameters()), *model.buffers()]  # type: ignore[list-item]


def assert_same(change: Callable[[nn.Module, Log], Any], model: nn.Module | None = None) -> Log:
    """A change of a network must show in the same way, and compute the same, in the plain and in the fused one."""
    plain = block() if model is None else model
    fused, logs, results = fuse(copy.deepcopy(plain)), ([], []), []
    if type(plain) is BasicBlock:
        plain.__class__ = PlainBlock
    for network, log in zip((plain, fused), logs, strict=True):
        undo = change(network, log)
        try:
            results.append(run(network))
        finally:
            if undo is not None:
                undo()
    for actual, expected in zip(*results, strict=True):
        torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-4)
    assert sorted(logs[0]) == sorted(logs[1])
    return logs[0]


def ran_fused(model: nn.Module) -> bool:
    return "FusedBatchNormLayerAct" in type(model(images()).grad_fn).__name__


# --- hooks ------------------------------------------------------------------------------------------------------------


def test_these_are_all_the_hooks_that_torch_has() -> None:
    """A kind of hook that a new torch brings is missing in the tables above, and has to be looked at."""
    of_module = {name for name in dir(nn.Module) if name.startswith(("register_", "_register_")) and "hook" in name}
    of_all = {name for name in dir(nn_module) if name.startswith("register_module_")}
    assert of_module | of_all <= OF_CALLS.keys() | OF_STATE
    stored = {name for name in vars(nn.Module()) if "hook" in name}
    of_state = {f"_{when}_hooks" for when in ("state_dict", "state_dict_pre")}
    of_state |= {f"_load_state_dict_{when}_hooks" for when in ("pre", "post")}
    assert stored == {*HOOKS, *of_state, "_is_full_backward_hook"}
    assert set(HOOKS) == {
        *("_forward_hooks", "_forward_hooks_with_kwargs", "_forward_hooks_always_called"),
        *("_forward_pre_hooks", "_forward_pre_hooks_with_kwargs", "_backward_hooks", "_backward_pre_hooks"),
    }


@pytest.mark.filterwarnings("ignore:.*backward hook:FutureWarning", "ignore:.*non-full backward hook")
@pytest.mark.parametrize("child", CHILDREN)
@pytest.mark.parametrize("name", [name for name in OF_CALLS if hasattr(nn.Module, name)])
def test_a_hook_on_any_module_sees_every_call(name: str, child: str) -> None:
    def change(model: nn.Module, log: Log) -> None:
        getattr(model.get_submodule(child), name)(lambda *given: log.append(f"{name} {len(given)}"))

    assert assert_same(change) == [f"{name} {OF_CALLS[name]}"]


@pytest.mark.filterwarnings("ignore:.*backward hook:FutureWarning", "ignore:.*non-full backward hook")
@pytest.mark.parametrize("name", [name for name in OF_CALLS if hasattr(nn_module, name)])
def test_a_hook_on_all_modules_sees_every_call(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nn_module, "_global_is_full_backward_hook", None)  # of hooks that are gone, too

    def change(model: nn.Module, log: Log) -> Callable[[], None]:
        names = {module: child for child, module in model.named_modules() if child}

        def hook(module: nn.Module, *_: Any) -> None:
            if names.get(module) in CHILDREN:
                log.append(names[module])

        return getattr(nn_module, name)(hook).remove

    assert set(CHILDREN) <= set(assert_same(change))


def test_a_hook_that_changes_what_passes_is_heeded() -> None:
    for child in CHILDREN:
        assert_same(
            lambda m, _, child=child: m.get_submodule(child).register_forward_hook(lambda *a: a[2] * 2) and None
        )


def test_hooks_of_state_dicts_and_those_that_are_gone_again_change_nothing() -> None:
    model = fuse(block())
    assert ran_fused(model)
    handle = model.bn2.register_forward_hook(lambda *_: None)
    assert not ran_fused(model)
    handle.remove()
    model.bn2.register_state_dict_pre_hook(lambda *_: None)
    assert ran_fused(model)


# --- other ways to get between ----------------------------------------------------------------------------------------


def replace_forward(module: nn.Module, log: Log) -> None:
    """As accelerate, test-time adaptation, quantisers and counters do."""
    old = module.forward
    module.forward = lambda *args: (log.append("called"), old(*args))[1]


@pytest.mark.parametrize("child", CHILDREN)
def test_a_replaced_forward_is_called(child: str) -> None:
    assert assert_same(lambda model, log: replace_forward(model.get_submodule(child), log)) == ["called"]


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")
@pytest.mark.parametrize("child", ["bn1", "act2", "downsample"])
def test_a_compiled_module_is_called(child: str) -> None:
    def change(model: nn.Module, log: Log) -> None:
        model.get_submodule(child).compile(backend=lambda graph, _: (log.append("compiled"), graph.forward)[1])

    alone: Log = []  # older versions of torch compile nothing of a module of its own
    norm = nn.BatchNorm2d(3)
    norm.compile(backend=lambda graph, _: (alone.append("compiled"), graph.forward)[1])
    norm(torch.randn(2, 3, 4, 4))
    assert "compiled" in assert_same(change) or not alone


@pytest.mark.parametrize("kind", [nn.BatchNorm2d, LASiLU, nn.Module], ids=lambda kind: kind.__name__)
def test_a_class_with_another_forward_or_call_is_called(kind: type[nn.Module], monkeypatch: pytest.MonkeyPatch) -> None:
    attribute = "__call__" if kind is nn.Module else "forward"
    old = getattr(kind, attribute)

    def change(_: nn.Module, log: Log) -> Callable[[], None]:
        def new(module: nn.Module, *args: Any) -> Any:
            if type(module) in (nn.BatchNorm2d, LASiLU, nn.Sequential, nn.Identity):
                log.append(type(module).__name__)
            return old(module, *args)

        monkeypatch.setattr(kind, attribute, new)
        return monkeypatch.undo

    assert len(assert_same(change)) >= 2


class Twice(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return 2 * x


class Loud(nn.BatchNorm2d):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + 5


def test_parameters_that_are_computed_and_subclasses() -> None:
    def scaled(model: nn.Module, _: Log) -> None:
        torch.manual_seed(3)
        model.act1 = nn.utils.spectral_norm(LayerAct(num_channels=4), "weight")

    mask = torch.tensor([1.0, 0.0, 1.0, 0.0])
    changes: list[Callable[[nn.Module, Log], Any]] = [
        lambda m, _: parametrize.register_parametrization(m.bn1, "weight", Twice()) and None,
        lambda m, _: prune.custom_from_mask(m.bn2, "weight", mask) and None,
        lambda m, _: setattr(m, "bn2", Loud(4)),
        lambda m, _: m.downsample.__setitem__(1, Loud(4)),
        scaled,
    ]
    for change in changes:
        assert_same(change)


def test_adaptation_that_replaces_the_statistics() -> None:
    """TENT: statistics of the batch, none that are kept."""

    def change(model: nn.Module, _: Log) -> None:
        for norm in (model.bn1, model.bn2, model.downsample[1]):
            norm.track_running_stats, norm.running_mean, norm.running_var = False, None, None
        model.eval()

    assert_same(change)


def test_modes_see_the_operations_and_a_default_device_is_none() -> None:
    seen: Log = []

    class Dispatch(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            seen.append(str(func))
            return func(*args, **(kwargs or {}))

    class Function(TorchFunctionMode):
        def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            seen.append(func.__name__)
            return func(*args, **(kwargs or {}))

    model = fuse(block())
    for mode, operation in ((Dispatch, "batch_norm"), (Function, "layer_norm")):
        seen.clear()
        with mode():
            model(images())
            assert kernels.backend_for(images()) == "composite"
        assert any(operation in name for name in seen)
    with torch.device("meta"):
        assert kernels.backend_for(torch.ones(2, 3, device="cpu")) == "cpu"


@pytest.mark.parametrize("buffers", [False, True])
def test_a_network_that_accelerate_offloads(buffers: bool) -> None:
    accelerate = pytest.importorskip("accelerate")
    model = timm.create_model("resnet20_lasilu", pretrained=True).eval()
    x = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = model(x)
        accelerate.cpu_offload(model, execution_device=torch.device("cpu"), offload_buffers=buffers)
        torch.testing.assert_close(model(x), expected, rtol=1e-3, atol=1e-3)


def test_stochastic_depth_of_nothing_is_called_where_it_is_watched() -> None:
    for drop_path, child in ((0.0, nn.Identity), (0.5, DropPath)):
        torch.manual_seed(0)
        model = CifarBlock(3, 4, 1, 1, act_layer=LASiLU, norm_layer=nn.BatchNorm2d, drop_path=drop_path, dd={}).eval()
        assert type(model.drop_path) is child
        log = assert_same(lambda m, log: replace_forward(m.drop_path, log), model)
        assert log == ["called"]


# --- parameters where kernels cannot read them ------------------------------------------------------------------------


def misaligned(numbers: list[float]) -> Tensor:
    """At an address that is no multiple of four."""
    memory = torch.zeros(4 * len(numbers) + 1, dtype=torch.uint8).numpy()
    return torch.frombuffer(memory, dtype=torch.float32, offset=1).copy_(torch.tensor(numbers))


NUMBERS = [0.5, -1.0, 2.0, 0.25]
READABLE = {
    "every other number": torch.tensor(NUMBERS).repeat_interleave(2)[::2],
    "misaligned": misaligned(NUMBERS),
    "negated when read": torch._neg_view(-torch.tensor(NUMBERS)),
    "bfloat16 in a float32 block": torch.tensor(NUMBERS).bfloat16(),
    "float64 in a float32 block": torch.tensor(NUMBERS).double(),
    "on another device": torch.tensor(NUMBERS, device="meta"),
    "too few": torch.tensor(NUMBERS[:3]),
    "too many": torch.tensor([*NUMBERS, 1.0]),
    "a matrix": torch.tensor(NUMBERS).view(2, 2),
}


@pytest.mark.parametrize("kind", READABLE)
@pytest.mark.parametrize("name", ["weight", "bias", "running_mean", "running_var"])
def test_parameters_that_kernels_cannot_read_go_to_batch_norm(kind: str, name: str) -> None:
    results: list[Any] = []
    for model in (block(), fuse(block())):
        tensor = READABLE[kind].abs() if name == "running_var" and "negated" not in kind else READABLE[kind]
        made = nn.Parameter(tensor, requires_grad=False) if "running" not in name else tensor
        setattr(model.bn2.eval(), name, made)
        assert getattr(model.bn2, name).data_ptr() == tensor.data_ptr()
        try:
            results.append(model(images()))
        except (RuntimeError, NotImplementedError) as error:
            results.append(type(error))
    if isinstance(results[0], Tensor):
        assert isinstance(results[1], Tensor), results[1]
        torch.testing.assert_close(results[1], results[0], rtol=1e-4, atol=1e-4, equal_nan=True)
    else:
        assert results[1] is results[0]


def test_affine_activations_are_looked_at_too() -> None:
    x = torch.randn(2, 4, 5, 6)
    for tensor in READABLE.values():
        if tensor.shape == (4,) and tensor.device == x.device:
            module = BatchNormLayerAct2d(4, affine_act=True)
            module.act.weight = nn.Parameter(tensor, requires_grad=False)
            expected = module.act(nn.functional.batch_norm(x, None, None, training=True))
            torch.testing.assert_close(module(x), expected, rtol=1e-4, atol=1e-4)


def test_a_norm_that_has_an_activation_keeps_it() -> None:
    x, norm = torch.randn(2, 4, 5, 6), BatchNormLayerAct2d(4)
    torch.testing.assert_close(norm_act(x, norm, LASiLU()), LASiLU()(norm(x)))


def test_batch_norm_refuses_what_it_refuses_alone() -> None:
    model = fuse(nn.Sequential(nn.BatchNorm2d(4), LASiLU()))
    with pytest.raises(ValueError, match="4D"):
        model(torch.randn(2, 4, 5))
    with pytest.raises(RuntimeError, match="running_mean"):
        model(torch.randn(2, 5, 5, 5))
