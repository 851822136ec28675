"""What kernels are given: memory that is what C takes it for, or nothing at all."""

import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd.graph import saved_tensors_hooks

import timm_layeract.functional as LF
from timm_layeract import LASiLU, kernels
from timm_layeract.definition import composite
from timm_layeract.kernels import cpu
from timm_layeract.kernels.batch_norm import BatchNorm
from timm_layeract.layers.batch_norm_act import norm_act

pytestmark = pytest.mark.skipif(not cpu.available(), reason="the CPU kernels were not built")

SHAPE = (2, 3, 4, 5)


class Subclass(Tensor):
    pass


def plain(seed: int = 0) -> Tensor:
    return torch.randn(SHAPE, generator=torch.Generator().manual_seed(seed))


def misaligned(x: Tensor) -> Tensor:
    """The same numbers at an address that is no multiple of four."""
    memory = torch.zeros(4 * x.numel() + 1, dtype=torch.uint8).numpy()
    return torch.frombuffer(memory, dtype=torch.float32, offset=1).view(x.shape).copy_(x)


def gaps(x: Tensor) -> Tensor:
    return x.repeat_interleave(2, dim=-1)[..., ::2]


def transposed(x: Tensor) -> Tensor:
    """Dense, but neither contiguous nor channels-last."""
    return x.transpose(2, 3).contiguous().transpose(2, 3)


# Tensors of the same numbers, some only when they are asked for.
SAME: dict[str, Callable[[Tensor], Tensor]] = {
    "negated when read": lambda x: torch._neg_view(-x),
    "functional": torch._to_functional_tensor,
    "a subclass": lambda x: x.as_subclass(Subclass),
    "misaligned": misaligned,
    "with gaps": gaps,
    "transposed": transposed,
    "channels last": lambda x: x.contiguous(memory_format=torch.channels_last),
    "an inference tensor": lambda x: x,
}


def read(x: Tensor) -> Tensor:
    if torch._is_functional_tensor(x):
        return torch._from_functional_tensor(x)
    return x.detach().as_subclass(Tensor).resolve_neg()


# --- which tensors kernels take ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", SAME)
def test_every_kind_of_tensor_has_the_same_result(kind: str) -> None:
    x = SAME[kind](plain())
    with torch.inference_mode() if kind == "an inference tensor" else nullcontext():
        wanted = composite.la_silu(plain())
        torch.testing.assert_close(read(LF.la_silu(x)), wanted)
        norm = nn.BatchNorm2d(3).eval()
        wanted = composite.la_silu(norm(plain()) + plain())
        torch.testing.assert_close(read(norm_act(x, norm, LASiLU(), x)), wanted, rtol=1e-4, atol=1e-5)
    fused = kind in ("channels last", "an inference tensor")
    assert kernels.backend_for(x) == ("cpu" if fused else "composite")


def test_tensors_without_memory_of_their_own() -> None:
    zero, meta = torch._efficientzerotensor(SHAPE), plain().to("meta")
    with FakeTensorMode() as mode:
        fake = mode.from_tensor(plain())
    for x in (zero, meta, fake):
        assert kernels.backend_for(x) == "composite"
        y = LF.la_silu(x)
        assert y.shape == x.shape
        assert y.device == x.device
    assert not LF.la_silu(zero).any()
    with FakeTensorMode(allow_non_fake_inputs=True):
        assert kernels.backend_for(plain()) == "composite"
    gone = plain()
    gone.untyped_storage().resize_(0)
    assert kernels.backend_for(gone) == "composite"
    with pytest.raises(RuntimeError, match="storage"):
        LF.la_silu(gone)


def test_what_is_no_dense_tensor_is_refused_in_one_line() -> None:
    x = plain()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # prototypes, and what is deprecated
        nested = [torch.nested.nested_tensor([x[0], x[1]], layout=layout) for layout in (torch.strided, torch.jagged)]
        quantized = torch.quantize_per_tensor(x, 0.1, 0, torch.qint8)
        sparse = [x.to_sparse(), x[0, 0].to_sparse_csr()]
    for other in (*nested, *sparse, x.to_mkldnn()):
        assert kernels.backend_for(other) == "composite"
        with pytest.raises(TypeError, match="needs a dense tensor"):
            LF.la_silu(other)
    with pytest.raises(TypeError, match="dequantize"):
        LF.la_silu(quantized)


@pytest.mark.parametrize("kind", [kind for kind in SAME if kind not in ("functional", "an inference tensor")])
def test_every_kind_of_gradient_comes_back_the_same(kind: str) -> None:
    for site in (LASiLU(), lambda x: norm_act(x, nn.BatchNorm2d(3), LASiLU(), x)):
        found = []
        for g in (SAME[kind](plain(1)), plain(1)):
            x = plain().requires_grad_()
            site(x).backward(g)
            found.append(x.grad)
        torch.testing.assert_close(*found, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", ["misaligned", "with gaps", "transposed", "channels last"])
def test_what_was_kept_may_come_back_otherwise(kind: str) -> None:
    """As from torch.autograd.graph.save_on_cpu, which forgets the memory order."""
    for layout in (torch.contiguous_format, torch.channels_last):
        for site in (LASiLU(), lambda x: norm_act(x, nn.BatchNorm2d(3), LASiLU(), x * 2)):
            found = []
            for hooks in (
                saved_tensors_hooks(lambda t: t, lambda t: SAME[kind](t) if t.dim() == 4 else t),
                nullcontext(),
            ):
                x = plain().contiguous(memory_format=layout).requires_grad_()
                with hooks:
                    y = site(x)
                y.backward(plain(1))
                found.append(x.grad)
            torch.testing.assert_close(*found, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("wrong", [lambda t: t.half(), lambda t: t[:1], lambda t: t.to("meta"), lambda t: t.double()])
def test_what_comes_back_as_something_else_is_refused(wrong: Callable[[Tensor], Tensor]) -> None:
    for site in (LASiLU(), lambda x: norm_act(x, nn.BatchNorm2d(3), LASiLU(), x * 2)):
        with saved_tensors_hooks(lambda t: t, wrong):
            y = site(plain().requires_grad_())
        with pytest.raises((ValueError, RuntimeError)):
            y.sum().backward()


# --- what C is given --------------------------------------------------------------------------------------------------


def norm(tensor: Tensor | None = None) -> BatchNorm:
    return BatchNorm(tensor, None, None, None, True, 0.1, 1e-5)


X, STATS, CHANNELS, SAMPLES = plain(), torch.ones(2, 2).double(), torch.ones(11, 3), torch.ones(4, 2)
# Each entry point, called with one tensor in the place of x, or of a parameter of one number a channel.
WITH_X: dict[str, Callable[[Any], object]] = {
    "layer_act_forward": lambda t: cpu.layer_act_forward(t, False, 1e-5, None, None),
    "layer_act_forward out": lambda t: cpu.layer_act_forward(X, False, 1e-5, None, None, t),
    "layer_act_backward": lambda t: cpu.layer_act_backward(t, X, STATS, False, None, None),
    "layer_act_backward g": lambda t: cpu.layer_act_backward(X, t, STATS, False, None, None),
    "norm_act_stats": lambda t: cpu.norm_act_stats(t, None),
    "norm_act_stats r": lambda t: cpu.norm_act_stats(X, t),
    "norm_act_value": lambda t: cpu.norm_act_value(t, None, False, CHANNELS, SAMPLES),
    "norm_act_sums g": lambda t: cpu.norm_act_sums(X, None, t, False, CHANNELS, SAMPLES),
    "norm_act_gradient u": lambda t: cpu.norm_act_gradient(X, None, t, False, CHANNELS, SAMPLES),
    "norm_act_forward": lambda t: cpu.norm_act_forward(t, None, norm(), None, False, 1e-5, None, None),
    "norm_act_forward r": lambda t: cpu.norm_act_forward(X, t, norm(), norm(), False, 1e-5, None, None),
    "norm_act_backward g": lambda t: cpu.norm_act_backward(X, None, t, norm(), None, False, KEPT, [None] * 6),
}
WITH_CHANNELS: dict[str, Callable[[Any], object]] = {
    "layer_act_forward weight": lambda t: cpu.layer_act_forward(X, False, 1e-5, t, None),
    "layer_act_backward bias": lambda t: cpu.layer_act_backward(X, X, STATS, False, None, t),
    "norm_act_forward norm": lambda t: cpu.norm_act_forward(X, None, norm(t), None, False, 1e-5, None, None),
    "norm_act_forward other": lambda t: cpu.norm_act_forward(X, X, norm(), norm(t), False, 1e-5, None, None),
    "norm_act_forward w": lambda t: cpu.norm_act_forward(X, None, norm(), None, False, 1e-5, t, None),
}
WITH_KEPT: dict[str, Callable[[Any], object]] = {
    "layer_act_backward stats": lambda t: cpu.layer_act_backward(X, X, t, False, None, None),
    "norm_act_value channels": lambda t: cpu.norm_act_value(X, None, False, t, SAMPLES),
    "norm_act_value samples": lambda t: cpu.norm_act_value(X, None, False, CHANNELS, t),
    "norm_act_backward": lambda t: cpu.norm_act_backward(X, None, X, norm(), None, False, (t, KEPT[1]), [None] * 6),
    "norm_act_backward norms": lambda t: cpu.norm_act_backward(
        X, None, X, norm(), None, False, (KEPT[0], t), [None] * 6
    ),
}
KEPT = cpu.norm_act_forward(X, None, norm(), None, False, 1e-5, None, None)[1] if cpu.available() else ()


def others(right: Tensor) -> Iterator[Tensor]:
    """Tensors that are all but `right`."""
    yield right.double() if right.dtype == torch.float32 else right.float()
    yield right.half()
    yield right.int()
    yield right[:, :1] if right.dim() > 1 else right[:1]
    yield torch.cat([right, right])
    yield right.to("meta")
    yield right.to_sparse()
    yield gaps(right)
    if right.dtype == torch.float32:
        yield misaligned(right)


@pytest.mark.parametrize("entry", [*WITH_X, *WITH_CHANNELS, *WITH_KEPT])
def test_entry_points_refuse_what_they_cannot_read(entry: str) -> None:
    function = {**WITH_X, **WITH_CHANNELS, **WITH_KEPT}[entry]
    if entry in WITH_X:
        wrong = [*others(X), X.contiguous(memory_format=torch.channels_last)]
        if entry in ("layer_act_forward", "norm_act_stats", "norm_act_value", "norm_act_forward"):
            wrong = [t for t in wrong if kernels.backend_for(t) != "cpu"]  # there is nothing that x must be like
    elif entry in WITH_CHANNELS:
        wrong = list(others(torch.ones(3)))
    else:
        right = {"stats": STATS, "channels": CHANNELS, "samples": SAMPLES, "norms": KEPT[1]}
        wrong = list(others(right.get(entry.split()[-1], KEPT[0])))
    assert len(wrong) > 5
    for tensor in wrong:
        with pytest.raises((ValueError, RuntimeError)):
            function(tensor)


@pytest.mark.parametrize("shape", [(0, 3, 4, 5), (2, 0, 4, 5), (2, 3, 0, 5), (3,), ()], ids=str)
def test_entry_points_refuse_empty_tensors(shape: tuple[int, ...]) -> None:
    for function in (WITH_X["layer_act_forward"], WITH_X["norm_act_stats"], WITH_X["norm_act_forward"]):
        with pytest.raises(ValueError, match="dense float32 or bfloat16"):
            function(torch.zeros(shape))


# --- defaults ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "default", [torch.bfloat16, torch.float16, torch.float64, torch.device("meta")], ids=lambda d: str(d)
)
def test_no_default_reaches_the_buffers_of_kernels(default: torch.dtype | torch.device) -> None:
    torch.manual_seed(0)
    model = timm.create_model("resnet20_lasilu", num_classes=3)
    x, results = torch.randn(3, 3, 16, 16), []
    for there in (False, True):
        around: AbstractContextManager[Any] = nullcontext()
        if there and isinstance(default, torch.device):
            around = default
        before = torch.get_default_dtype()
        try:
            with around:
                if there and isinstance(default, torch.dtype):
                    torch.set_default_dtype(default)
                model.zero_grad()
                y = model(x)
                y.square().sum().backward()
                results.append([y.detach(), *(p.grad.clone() for p in model.parameters())])  # type: ignore[union-attr]
        finally:
            torch.set_default_dtype(before)
    for actual, expected in zip(*results, strict=True):
        torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-6)
