"""What people wrap networks in: each a case that the tests run, and that docs/surroundings.md is written from."""

import copy
import io
import pickle
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple
from unittest import mock

import timm
import timm.layers
import timm.models
import timm.utils.model
import torch
import torch.distributed as dist
import torch.nn.modules.module as nn_module
from accelerate import cpu_offload, dispatch_model
from timm.models._features_fx import create_feature_extractor as timm_extractor
from torch import Tensor, fx, nn
from torch.distributed import fsdp
from torch.nn.utils import parametrize
from torchvision.models.feature_extraction import create_feature_extractor

import timm_layeract
from timm_layeract.kernels import cpu
from timm_layeract.layers import LayerAct

Run = Callable[[nn.Module, Tensor], Tensor]
MODEL = "resnet20_lasilu"
AFFINE = timm_layeract.LayerAct(num_channels=10)


class Outcome(NamedTuple):
    """What came of a case.

    Attributes:
        error: Largest difference of a logit to the definition's, relative to the largest logit; 0 where refused.
        fused: Activations that ran in one pass with the BatchNorm before them.
        sites: Activations.
        refused: The message, if it was refused.
    """

    error: float
    fused: int
    sites: int
    refused: str = ""


class YourNetwork(nn.Module):
    """A network of somebody's own, with the fused layer in it, and BatchNorms in the middle of their life."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.norm1 = nn.Conv2d(3, 8, 3, 2), timm_layeract.BatchNormLayerAct2d(8)
        self.conv2, self.norm2 = nn.Conv2d(8, 8, 3), timm_layeract.BatchNormLayerAct2d(8, "hardsigmoid")
        self.head = nn.Conv2d(8, 5, 1)
        for norm in (self.norm1.norm, self.norm2.norm):
            nn.init.uniform_(norm.weight, 0.5, 1.5)
            nn.init.normal_(norm.running_mean)
            nn.init.uniform_(norm.running_var, 0.5, 1.5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.norm2(self.conv2(self.norm1(self.conv1(x))))).mean((2, 3))


def registered() -> nn.Module:
    """A registered network, which is fused, with its trained weights."""
    return timm.create_model(MODEL, pretrained=True).eval()


def yours() -> nn.Module:
    """`YourNetwork`, the same each time."""
    torch.manual_seed(0)
    return YourNetwork().eval()


def images() -> Tensor:
    """Sides that are no powers of two."""
    return torch.randn(2, 3, 29, 35, generator=torch.Generator().manual_seed(1))


def outcome(make: Callable[[], nn.Module], run: Run) -> Outcome:
    """Run a case, and compare with the definition in plain torch operations, module by module, in float64."""
    plain = timm_layeract.unfuse(make()).double()
    with torch.no_grad(), timm_layeract.kernels.use_backend("composite"):
        expected = plain(images().double())
    sites = sum(isinstance(module, LayerAct) for module in plain.modules())
    with counted_passes() as passes, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of what is deprecated in what wraps
        try:
            logits = run(make(), images()).detach().double()
        except timm_layeract.errors.UserError as error:
            return Outcome(0.0, len(passes), sites, str(error))
    return Outcome(float((logits - expected).abs().max() / expected.abs().max()), len(passes), sites)


@contextmanager
def counted_passes() -> Iterator[list[None]]:
    """As long as the passes that BatchNorm and LayerAct take together."""
    passes: list[None] = []
    whole = cpu.norm_act_forward

    def counted(*args: Any, **options: Any) -> Any:
        passes.append(None)
        return whole(*args, **options)

    with mock.patch.object(cpu, "norm_act_forward", counted):
        yield passes


# --- cases ------------------------------------------------------------------------------------------------------------


def last_norm(model: nn.Module) -> nn.Module:
    """The last BatchNorm of a network."""
    return [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)][-1]


def on_last_norm(change: Callable[[nn.Module], Any]) -> Run:
    """Change the last BatchNorm, and run."""

    def run(model: nn.Module, x: Tensor) -> Tensor:
        change(last_norm(model))
        return model(x)

    return run


def replaced_forward(norm: nn.Module) -> None:
    old = norm.forward
    norm.forward = lambda x: old(x)


def with_hook_on_all(model: nn.Module, x: Tensor) -> Tensor:
    handle = nn_module.register_module_forward_hook(lambda *_: None)
    try:
        return model(x)
    finally:
        handle.remove()


def with_backward_hook(model: nn.Module, x: Tensor) -> Tensor:
    seen: list[None] = []
    last_norm(model).register_full_backward_hook(lambda *_: seen.append(None))
    y = model(x.requires_grad_())
    y.sum().backward()
    assert seen
    return y


def pickled(model: nn.Module, x: Tensor) -> Tensor:
    file = io.BytesIO()
    torch.save(pickle.loads(pickle.dumps(model)), file)
    file.seek(0)
    return torch.load(file, weights_only=False)(x)


class Identity(nn.Module):
    """A parametrisation that changes nothing."""

    def forward(self, x: Tensor) -> Tensor:
        return x


def to_disk(model: nn.Module, x: Tensor) -> Tensor:
    with TemporaryDirectory() as folder:
        places = {name: "disk" for name, _ in model.named_children()}
        return dispatch_model(model, places, main_device="cpu", offload_dir=folder, force_hooks=True)(x)


def among_processes(wrap: Callable[[nn.Module], nn.Module]) -> Run:
    """Wrap in a world of this process alone; `tests/layers/test_many_processes.py` has two."""

    def run(model: nn.Module, x: Tensor) -> Tensor:
        with TemporaryDirectory() as folder:
            dist.init_process_group("gloo", init_method=f"file://{Path(folder, 'meeting')}", rank=0, world_size=1)
            try:
                return wrap(model)(x)
            finally:
                dist.destroy_process_group()

    return run


def exported(model: nn.Module, x: Tensor) -> Tensor:
    return torch.export.export(model, (x,)).module()(x)


def extracted(extract: Callable[..., nn.Module]) -> Run:
    """By the name of the last child."""

    def run(model: nn.Module, x: Tensor) -> Tensor:
        name = [name for name, _ in model.named_children()][-1]
        found = extract(model, [name])(x)
        y = next(iter(found.values())) if isinstance(found, dict) else found[0]
        return y.mean((2, 3)) if y.dim() == 4 else y

    return run


def per_sample(model: nn.Module, x: Tensor) -> Tensor:
    weights = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    one = lambda each: torch.func.functional_call(model, weights, (each[None],))[0]  # noqa: E731
    return torch.func.vmap(one)(x)


def forward_mode(model: nn.Module, x: Tensor) -> Tensor:
    return torch.func.jvp(model, (x,), (torch.ones_like(x),))[0]


def within(surroundings: Callable[[], Any]) -> Run:
    """Run inside a context."""

    def run(model: nn.Module, x: Tensor) -> Tensor:
        with surroundings():
            return model(x)

    return run


@contextmanager
def default_dtype(dtype: torch.dtype) -> Iterator[None]:
    """As `torch.set_default_dtype`, and back."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


CASES: dict[str, Run] = {
    "nothing": lambda model, x: model(x),
    "`fuse`, `unfuse`": lambda model, x: timm_layeract.unfuse(timm_layeract.fuse(model))(x),
    "`fuse(inference=True)`": lambda model, x: timm_layeract.fuse(model, inference=True)(x),
    "`deepcopy`": lambda model, x: copy.deepcopy(model)(x),
    "pickle, `torch.save` of the whole module": pickled,
    "channels_last": lambda model, x: model.to(memory_format=torch.channels_last)(x),
    "`inference_mode`": within(torch.inference_mode),
    "bfloat16 autocast": within(lambda: torch.autocast("cpu", torch.bfloat16)),
    "`model.bfloat16()`": lambda model, x: model.bfloat16()(x.bfloat16()),
    '`with torch.device("meta")` around a call': within(lambda: torch.device("meta")),
    "`set_default_dtype(bfloat16)` around a call": within(lambda: default_dtype(torch.bfloat16)),
    "a forward hook on a BatchNorm": on_last_norm(lambda norm: norm.register_forward_hook(lambda *_: None)),
    "a backward hook on a BatchNorm": with_backward_hook,
    "a hook on all modules": with_hook_on_all,
    "another `forward` of a BatchNorm (observers, TENT, counters)": on_last_norm(replaced_forward),
    "a parametrised weight of a BatchNorm": on_last_norm(
        lambda norm: parametrize.register_parametrization(norm, "weight", Identity())
    ),
    "accelerate: `cpu_offload`": lambda model, x: cpu_offload(model, torch.device("cpu"))(x),
    "accelerate: `cpu_offload(offload_buffers=True)`": lambda model, x: cpu_offload(
        model, torch.device("cpu"), offload_buffers=True
    )(x),
    "accelerate: `dispatch_model` to disk": to_disk,
    "DistributedDataParallel": among_processes(nn.parallel.DistributedDataParallel),
    "FullyShardedDataParallel": among_processes(
        lambda model: fsdp.FullyShardedDataParallel(model, device_id=torch.device("cpu"))
    ),
    "`fully_shard` (FSDP2)": among_processes(lambda model: fsdp.fully_shard(model)),
    "timm: `convert_sync_batchnorm`": lambda model, x: timm.layers.convert_sync_batchnorm(model)(x),
    "torch: `SyncBatchNorm.convert_sync_batchnorm`": lambda model, x: nn.SyncBatchNorm.convert_sync_batchnorm(model)(x),
    "timm: `freeze_batch_norm_2d`": lambda model, x: timm.utils.model.freeze_batch_norm_2d(model)(x),
    "`torch.compile`": lambda model, x: torch.compile(model, backend="aot_eager")(x),
    "`torch.export`": exported,
    "`torch.jit.script`": lambda model, x: torch.jit.script(model)(x),
    "`torch.jit.trace`": lambda model, x: torch.jit.trace(model, x, check_trace=False)(x),
    "`torch.fx.symbolic_trace`": lambda model, x: fx.symbolic_trace(model)(x),
    "torchvision: `create_feature_extractor`": extracted(create_feature_extractor),
    "timm: `create_feature_extractor`": extracted(timm_extractor),
    "`torch.jit.script`, with an affine LayerAct": lambda model, x: torch.jit.script(nn.Sequential(model, AFFINE))(x),
    "`torch.fx`, with a normalized activation in training": lambda model, x: fx.symbolic_trace(
        nn.Sequential(model, timm_layeract.NormalizedAct(nn.ReLU)).train()
    )(x),
    "`vmap` over samples": per_sample,
    "forward-mode derivatives (`jvp`)": forward_mode,
}
