"""Operations side by side: LayerAct's backends, what others take for their place, and the authors' module if given."""

import importlib.util
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import torch
import torch.nn.functional as F
from rich.progress import Progress
from torch import Tensor, nn

from timm_layeract import LASiLU, kernels
from timm_layeract import functional as LF
from timm_layeract.definition import composite
from timm_layeract.layers.batch_norm_act import norm_act

from .measure import Row, interleave, rows

__all__ = ["LAYOUTS", "SHAPES", "growth", "operations"]

SHAPES = [(2, 4, 1, 1), (128, 16, 32, 32), (128, 64, 8, 8), (32, 64, 56, 56), (32, 256, 56, 56)]
LAYOUTS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
Operation = Callable[..., Tensor]


def authors_activation(path: Path) -> Operation:
    """LA-SiLU of the authors' published module (the file that defines a class LA_SiLU)."""
    spec = importlib.util.spec_from_file_location("authors_layeract", path)
    assert spec is not None, f"{path} is no Python file"
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.LA_SiLU()


def contenders(channels: int, authors: Path | None, compiled: bool) -> dict[str, tuple[Operation, str | None]]:
    """Name -> (operation on x and a residual, backend to force)."""
    norm, act = nn.BatchNorm2d(channels, device=DEVICE), LASiLU()
    weight, bias = norm.weight, norm.bias
    fused = "triton" if DEVICE == "cuda" else "cpu"

    def batch_norm(x: Tensor) -> Tensor:
        return F.batch_norm(x, norm.running_mean, norm.running_var, weight, bias, training=True)

    found: dict[str, tuple[Operation, str | None]] = {
        "copy": (lambda x, r: x.clone(), None),  # backward copies the gradient, too
        "relu": (lambda x, r: F.relu(x), None),
        "silu": (lambda x, r: F.silu(x), None),
        "layer_norm": (lambda x, r: F.layer_norm(x, x.shape[1:]), None),
        "la_silu": (lambda x, r: LF.la_silu(x), fused),
        "la_silu composite": (lambda x, r: composite.la_silu(x), "composite"),
        "batch_norm": (lambda x, r: batch_norm(x), None),
        "batch_norm + relu": (lambda x, r: F.relu(batch_norm(x), inplace=True), None),
        "batch_norm + la_silu": (lambda x, r: norm_act(x, norm, act), fused),
        "batch_norm + add + relu": (lambda x, r: F.relu(batch_norm(x).add_(r), inplace=True), None),
        "batch_norm + add + la_silu": (lambda x, r: norm_act(x, norm, act, r), fused),
    }
    if compiled:
        compiled_la_silu = torch.compile(composite.la_silu)
        found["la_silu compiled"] = (lambda x, r: compiled_la_silu(x), None)
    if authors is not None:
        module = authors_activation(authors)
        found["la_silu authors"] = (lambda x, r: module(x), None)
    return found


def cases(
    x: Tensor, r: Tensor, g: Tensor, backward: bool, authors: Path | None, compiled: bool
) -> dict[str, Callable[[], object]]:
    """The contenders on these tensors, forward or forward and backward."""

    def case(operation: Operation, backend: str | None) -> Callable[[], object]:
        def run() -> None:
            scope: AbstractContextManager[None] = kernels.use_backend(backend) if backend else nullcontext()  # type: ignore[arg-type]
            with scope, torch.set_grad_enabled(backward):
                y = operation(x, r)
                if backward:
                    y.backward(g)
                    x.grad = r.grad = None

        return run

    return {name: case(*each) for name, each in contenders(x.shape[1], authors, compiled).items()}


def operations(authors: Path | None, compiled: bool, repetitions: int, progress: Progress) -> Iterator[Row]:
    """Every contender at every shape, type and layout, forward and forward + backward."""
    total = len(SHAPES) * len(LAYOUTS) * 4
    task = progress.add_task("operations", total=total)
    for shape in SHAPES:
        for dtype in (torch.float32, torch.bfloat16):
            for layout, memory_format in LAYOUTS.items():
                x, r, g = (
                    torch.randn(shape, device=DEVICE).to(dtype).contiguous(memory_format=memory_format)
                    for _ in range(3)
                )
                for backward in (False, True):
                    of = dict(level="operation", shape="x".join(map(str, shape)), dtype=str(dtype)[6:], layout=layout)
                    what = "forward + backward" if backward else "forward"
                    x.requires_grad_(backward), r.requires_grad_(backward)
                    times = interleave(cases(x, r, g, backward, authors, compiled), repetitions, progress)
                    yield from rows(times, what=what, **of)
                    progress.advance(task)
    progress.remove_task(task)


GROWTH = {
    "batch": [(n, 64, 28, 28) for n in (4, 8, 16, 32, 64, 128)],
    "channels": [(32, c, 28, 28) for c in (16, 32, 64, 128, 256, 512)],
    "side": [(32, 64, s, s) for s in (7, 14, 28, 56, 112)],
}


def growth(repetitions: int, progress: Progress) -> Iterator[Row]:
    """LA-SiLU, layer_norm and the pairs with BatchNorm, forward + backward, as one dimension grows."""
    names = ("la_silu", "layer_norm", "batch_norm + relu", "batch_norm + la_silu")
    for dimension, shapes in GROWTH.items():
        for shape in shapes:
            x, r, g = (torch.randn(shape, device=DEVICE) for _ in range(3))
            x.requires_grad_()
            all_cases = cases(x, r, g, True, None, False)
            times = interleave({name: all_cases[name] for name in names}, repetitions, progress)
            of = dict(dtype="float32", layout="contiguous", what="forward + backward")
            yield from rows(times, level=f"growth with {dimension}", shape="x".join(map(str, shape)), **of)
