"""Whole networks: a training step, inference, and the memory of both."""

import json
import subprocess
import sys
from collections.abc import Callable, Iterator

import timm
import torch
import torch.nn.functional as F
from rich.progress import Progress
from torch import Tensor, nn

from timm_layeract import fuse

from .measure import Row, bytes_kept, interleave, peak_memory, rows
from .operations import DEVICE, LAYOUTS

__all__ = ["networks", "peak"]

# Network of ours -> (its stock twin, batch, side, classes).
PAIRS = {"resnet20_lasilu": ("resnet20", 128, 32, 10), "resnet50_lasilu": ("resnet50", 16, 112, 1000)}


def build(name: str, memory_format: torch.memory_format, classes: int) -> nn.Module:
    """The network; a name that ends in ``unfused`` runs its modules one by one."""
    torch.manual_seed(0)
    name, _, unfused = name.partition(" ")
    options = {"fused": False} if unfused else {}
    model = timm.create_model(name, num_classes=classes, **options)
    return model.to(DEVICE, memory_format=memory_format)  # type: ignore[call-overload]


def batch(count: int, side: int, classes: int, memory_format: torch.memory_format) -> tuple[Tensor, Tensor]:
    """Random images and labels."""
    images = torch.randn(count, 3, side, side, device=DEVICE).contiguous(memory_format=memory_format)
    return images, torch.randint(0, classes, (count,), device=DEVICE)


def loss_of(model: nn.Module, images: Tensor, labels: Tensor, bf16: bool) -> Tensor:
    """Forward pass and loss, under autocast if bf16."""
    with torch.autocast(DEVICE, torch.bfloat16, enabled=bf16):
        return F.cross_entropy(model(images), labels)


def training(model: nn.Module, images: Tensor, labels: Tensor, bf16: bool) -> Callable[[], object]:
    """A training step without the optimizer, which is the same for all."""

    def step() -> None:
        loss_of(model, images, labels, bf16).backward()
        model.zero_grad()

    return step


def inference(model: nn.Module, images: Tensor) -> Callable[[], object]:
    """A forward pass with BatchNorm folded into the convolutions."""
    folded = fuse(model.eval(), inference=True)

    @torch.inference_mode()
    def run() -> None:
        folded(images)

    return run


def networks(repetitions: int, progress: Progress) -> Iterator[Row]:
    """Ours, fused and not, beside the stock network, in both layouts and types."""
    for ours, (stock, count, side, classes) in PAIRS.items():
        names = [stock, ours, f"{ours} unfused"]
        for layout, memory_format in LAYOUTS.items():
            data = batch(count, side, classes, memory_format)
            of = dict(shape=f"{count}x3x{side}x{side}", layout=layout)
            models = {name: build(name, memory_format, classes) for name in names}
            for bf16 in (False, True):
                dtype = "bfloat16" if bf16 else "float32"
                steps = {name: training(model, *data, bf16) for name, model in models.items()}
                times = interleave(steps, repetitions, progress)
                yield from rows(times, level="training step", dtype=dtype, what="forward + backward", **of)
                for name, model in models.items():
                    yield memory(name, _kept(model, *data, bf16), "bytes kept", dtype=dtype, **of)
            passes = {name: inference(models[name], data[0]) for name in names[:2]}
            times = interleave(passes, repetitions, progress)
            yield from rows(times, level="inference", dtype="float32", what="forward", **of)
        for name in names:
            for layout in LAYOUTS:
                of = dict(shape=f"{count}x3x{side}x{side}", layout=layout, dtype="float32")
                yield memory(name, _peak_in_a_process_of_its_own(name, layout), "peak resident bytes", **of)


def memory(name: str, size: int, what: str, **of: str) -> Row:
    """A number of bytes as a row."""
    quartiles = dict.fromkeys(("median", "lower_quartile", "upper_quartile"), float(size))
    return Row("training step", name, what=what, repetitions=1, **quartiles, **of)  # type: ignore[arg-type]


def _kept(model: nn.Module, images: Tensor, labels: Tensor, bf16: bool) -> int:
    return bytes_kept(lambda: loss_of(model, images, labels, bf16), list(model.parameters()))


def _peak_in_a_process_of_its_own(name: str, layout: str) -> int:
    code = f"from benchmarks.networks import peak; peak({name!r}, {layout!r})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


def peak(name: str, layout: str) -> None:
    """Print the highest resident memory of three training steps."""
    stock_or_ours = name.partition(" ")[0]
    _, count, side, classes = next((s, *rest) for o, (s, *rest) in PAIRS.items() if stock_or_ours in (o, s))
    model = build(name, LAYOUTS[layout], classes)
    step = training(model, *batch(count, side, classes, LAYOUTS[layout]), bf16=False)
    for _ in range(3):
        step()
    print(json.dumps(peak_memory()))
