"""What `gpu` runs on a GPU, case by case: right values, operations, training steps, time to the first step.

Needs torch, timm and this package alone, so that it runs where nothing can be installed.
"""

import contextlib
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from timm_layeract import LASiLU, LayerAct, kernels
from timm_layeract.definition import composite
from timm_layeract.layers.batch_norm_act import norm_act

LAYOUTS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
TOLERANCES = {"float32": 1e-5, "bfloat16": 3e-2, "float16": 4e-3}
ROADS = ("triton", "compiled", "composite")
Found = dict[str, float]


@dataclass(frozen=True)
class Sizes:
    """How large everything is; `REHEARSAL` where there is no GPU."""

    device: str
    correct: tuple[tuple[int, ...], ...]
    operations: tuple[tuple[tuple[int, ...], str, str], ...]  # shape, dtype, layout
    steps: tuple[tuple[str, int, int], ...]  # network, batch, pixels
    milliseconds: int  # that each operation is timed for


LARGE = (
    ((256, 256, 56, 56), "bfloat16", "channels_last"),
    ((256, 64, 112, 112), "bfloat16", "channels_last"),
    ((256, 256, 56, 56), "bfloat16", "contiguous"),
    ((256, 512, 28, 28), "bfloat16", "channels_last"),
    ((256, 2048, 7, 7), "bfloat16", "channels_last"),
    ((256, 256, 56, 56), "float32", "contiguous"),
)
SMALL = (((8, 64, 56, 56), "bfloat16", "channels_last"),)
FULL = Sizes(
    "cuda",
    ((4, 16, 32, 32), (2, 64, 56, 56), (8, 512, 7, 7), (2, 3, 5, 7), (64, 10), (1, 256, 112, 112), (5, 7, 33)),
    LARGE + SMALL,
    (("resnet50", 128, 224), ("resnet18", 32, 224), ("resnet50", 256, 96)),
    40,
)
REHEARSAL = replace(
    FULL,
    device="cpu",
    correct=((2, 3, 5, 7),),
    operations=(((2, 4, 6, 6), "bfloat16", "channels_last"),),
    steps=(("resnet18", 2, 32),),
    milliseconds=1,
)


def synchronize(device: str) -> None:
    """Wait for the device."""
    if device == "cuda":
        torch.cuda.synchronize()


def _random(shape: tuple[int, ...], dtype: str, layout: str, device: str, number: int) -> list[Tensor]:
    order = LAYOUTS[layout] if len(shape) == 4 else torch.contiguous_format
    return [torch.randn(shape, device=device).to(DTYPES[dtype]).contiguous(memory_format=order) for _ in range(number)]


# --- right values -----------------------------------------------------------------------------------------------------


def _error(found: list[Tensor], wanted: list[Tensor]) -> float:
    pairs = zip(found, wanted, strict=True)
    return max(float(((a.double() - b).abs().max() / b.abs().max().clamp_min(1e-30)).detach()) for a, b in pairs)


def _gradients(y: Tensor, inputs: list[Tensor], g: Tensor) -> list[Tensor]:
    return [y, *torch.autograd.grad(y, inputs, g.to(y.dtype))]


def _layer_act_error(sizes: Sizes, shape: tuple[int, ...], dtype: str, layout: str, kind: str, offset: float) -> float:
    x, g = _random(shape, dtype, layout, sizes.device, 2)
    x = x * 2 + offset
    act = LayerAct("hardsigmoid" if kind == "hard" else "sigmoid", 1e-3, shape[1] if kind == "affine" else None)
    act = act.to(sizes.device)
    for parameter in act.parameters():
        nn.init.uniform_(parameter, 0.5, 1.5)
    exact = [t.detach().double().requires_grad_() for t in (x, *act.parameters())]
    n = composite.layer_normalize(exact[0], act.alpha).detach()
    g = g * ((n.abs() - 3).abs() > 0.1).to(g.dtype)  # zero next to the corners of hardsigmoid
    wanted = _gradients(composite.layer_act(exact[0], act.scale, act.alpha, *exact[1:]), exact, g)
    own = x.requires_grad_()
    return _error(_gradients(act(own), [own, *act.parameters()], g), wanted)


def _norm_act_error(sizes: Sizes, shape: tuple[int, ...], dtype: str, layout: str, kind: str, offset: float) -> float:
    x, r, g = _random(shape, dtype, layout, sizes.device, 3)
    x, act = x * 2 + offset, LASiLU(1e-3)
    norm, r_norm = (nn.BatchNorm2d(shape[1], device=sizes.device) for _ in range(2))
    norms = [norm, *([r_norm] if kind == "normalized" else [])]
    for each in norms:
        nn.init.uniform_(each.weight, 0.5, 1.5)
        each.train(kind != "eval")
    inputs = [t.requires_grad_() for t in ((x,) if kind in ("none", "eval") else (x, r))]
    parameters = [p for each in norms for p in each.parameters()]
    exact = [t.detach().double().requires_grad_() for t in (*inputs, *parameters)]
    plain = exact[len(inputs) :]

    def normalize(t: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        mean, var = (norm.running_mean.double(), norm.running_var.double()) if kind == "eval" else (None, None)  # type: ignore[union-attr]
        return F.batch_norm(t, mean, var, weight, bias, kind != "eval", 0.0, norm.eps)

    z = normalize(exact[0], *plain[:2])
    if len(inputs) == 2:
        z = z + (normalize(exact[1], *plain[2:]) if kind == "normalized" else exact[1])
    wanted = _gradients(composite.la_silu(z, act.alpha), exact, g)
    y = norm_act(x, norm, act, r if len(inputs) == 2 else None, r_norm if kind == "normalized" else None)
    return _error(_gradients(y, [*inputs, *parameters], g), wanted)


def correct(sizes: Sizes) -> Iterator[tuple[str, Callable[[], Found]]]:
    """The largest error of the kernels' values and gradients, as a share of the largest value."""
    for shape, dtype, layout, offset in product(sizes.correct, DTYPES, LAYOUTS, (0.0, 100.0)):
        if layout == "channels_last" and len(shape) != 4:
            continue
        checks = [(_layer_act_error, kind) for kind in ("plain", "hard", "affine")]
        if len(shape) == 4:
            checks += [(_norm_act_error, kind) for kind in ("none", "plain", "normalized", "eval")]
        for check, kind in checks:

            def case(check: Any = check, of: tuple[Any, ...] = (shape, dtype, layout, kind, offset)) -> Found:
                torch.manual_seed(0)
                with kernels.use_backend("triton"):
                    return {"error": check(sizes, *of)}

            yield f"{'x'.join(map(str, shape))} {dtype} {layout} offset {offset:g} {check.__name__[1:9]} {kind}", case


# --- operations -------------------------------------------------------------------------------------------------------


def _contenders(channels: int, device: str) -> dict[str, tuple[str | None, Callable[[Tensor, Tensor], Tensor]]]:
    """Name -> (backend, operation of x and a residual)."""
    norm, act = nn.BatchNorm2d(channels, device=device), LASiLU()

    def bn(x: Tensor) -> Tensor:
        return F.batch_norm(x, norm.running_mean, norm.running_var, norm.weight, norm.bias, True)

    found: dict[str, tuple[str | None, Callable[[Tensor, Tensor], Tensor]]] = {
        "copy": (None, lambda x, r: x.clone()),
        "relu": (None, lambda x, r: F.relu(x)),
        "layer_norm": (None, lambda x, r: F.layer_norm(x, x.shape[1:])),
        "bn + relu": (None, lambda x, r: F.relu(bn(x), inplace=True)),
        "bn + add + relu": (None, lambda x, r: F.relu(bn(x).add_(r), inplace=True)),
    }
    for road in ROADS:
        found[f"la_silu {road}"] = (road, lambda x, r: act(x))
    for road in ("triton", "compiled"):
        found[f"bn + la_silu {road}"] = (road, lambda x, r: norm_act(x, norm, act))
        found[f"bn + add + la_silu {road}"] = (road, lambda x, r: norm_act(x, norm, act, r))
    return found


def _time(call: Callable[[], object], sizes: Sizes) -> float:
    """Median milliseconds."""
    if sizes.device == "cuda":
        from triton.testing import do_bench

        return float(do_bench(call, warmup=10, rep=sizes.milliseconds, return_mode="median"))
    started = time.perf_counter()
    call()
    return 1e3 * (time.perf_counter() - started)


def operations(sizes: Sizes) -> Iterator[tuple[str, Callable[[], Found]]]:
    """Milliseconds of operations, forward and forward + backward, eager and (LA-SiLU) through torch.compile."""
    for shape, dtype, layout in sizes.operations:
        for name in _contenders(shape[1], "meta"):

            def case(name: str = name, of: Any = (shape, dtype, layout)) -> Found:
                road, operation = _contenders(of[0][1], sizes.device)[name]
                x, r, g = _random(*of, sizes.device, 3)
                own, residual = x.detach().requires_grad_(), r.detach().requires_grad_()

                def both() -> None:
                    operation(own, residual).backward(g)
                    own.grad = residual.grad = None

                with kernels.use_backend(road) if road else contextlib.nullcontext():  # type: ignore[arg-type]
                    with torch.no_grad():
                        forward = _time(lambda: operation(x, r), sizes)
                    return {"forward": forward, "forward + backward": _time(both, sizes)}

            yield f"{'x'.join(map(str, shape))} {dtype} {layout} {name}", case


# --- steps ------------------------------------------------------------------------------------------------------------


def training_step(network: str, batch: int, pixels: int, compile: bool, device: str) -> Callable[[], None]:
    """A training step, bfloat16 autocast and channels_last."""
    torch.manual_seed(0)
    torch.backends.cudnn.benchmark = True
    model = timm.create_model(network).to(device, memory_format=torch.channels_last).train()
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9, foreach=True)
    x = torch.randn(batch, 3, pixels, pixels, device=device).contiguous(memory_format=torch.channels_last)
    y = torch.randint(1000, (batch,), device=device)
    called = torch.compile(model) if compile else model

    def step() -> None:
        with torch.autocast(device, torch.bfloat16, cache_enabled=False):
            loss = F.cross_entropy(called(x), y)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


def _captured(step: Callable[[], None], device: str) -> Callable[[], None]:
    """The step as one CUDA graph."""
    if device != "cuda":
        return step
    aside = torch.cuda.Stream()
    aside.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(aside):
        for _ in range(3):
            step()
    torch.cuda.current_stream().wait_stream(aside)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step()
    return graph.replay


def _measure_step(name: str, road: str | None, mode: str, batch: int, pixels: int, device: str) -> Found:
    if device == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    with kernels.use_backend(road) if road else contextlib.nullcontext():  # type: ignore[arg-type]
        step = training_step(name, batch, pixels, mode == "compiled", device)
        if mode == "graph":
            step = _captured(step, device)
        for _ in range(4 if device == "cuda" else 0):
            step()
        synchronize(device)
        repetitions = 20 if device == "cuda" else 1
        started = time.perf_counter()
        for _ in range(repetitions):
            step()
        synchronize(device)
    found = {"step": 1e3 * (time.perf_counter() - started) / repetitions}
    return {**found, "peak bytes": torch.cuda.max_memory_allocated()} if device == "cuda" else found


def steps(sizes: Sizes) -> Iterator[tuple[str, Callable[[], Found]]]:
    """Milliseconds of training steps and their peak memory; eager, as CUDA graphs, compiled."""
    for (network, batch, pixels), mode in product(sizes.steps, ("eager", "graph", "compiled")):
        contenders: list[tuple[str, str | None]] = [(network, None)]
        roads = ("composite",) if mode == "compiled" else ROADS  # a compiled network is compiled from the composite
        contenders += [(f"{network}_lasilu", road) for road in (roads if sizes.device == "cuda" else roads[-1:])]
        for name, road in contenders:

            def case(of: Any = (name, road, mode, batch, pixels)) -> Found:
                return _measure_step(*of, sizes.device)

            yield f"{network} {batch} x {pixels} px {mode} {'relu' if road is None else 'la_silu ' + road}", case


FIRST = """
import sys, time
from benchmarks.gpu_cases import kernels, synchronize, training_step
name, road, batch, pixels, device = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]), sys.argv[5]
started = time.perf_counter()
with kernels.use_backend(road):
    training_step(name, batch, pixels, False, device)()
synchronize(device)
print(time.perf_counter() - started)
"""


def first_step(sizes: Sizes) -> Iterator[tuple[str, Callable[[], Found]]]:
    """Seconds to the end of the first step in a new process with empty caches."""
    network, batch, pixels = sizes.steps[0]
    roads = {"relu": "composite", "la_silu triton": "triton", "la_silu compiled": "compiled"}
    for name, road in roads.items() if sizes.device == "cuda" else [("relu", "composite")]:

        def case(of: Any = (network if name == "relu" else f"{network}_lasilu", road)) -> Found:
            with tempfile.TemporaryDirectory() as folder:
                caches = {"TRITON_CACHE_DIR": folder, "TORCHINDUCTOR_CACHE_DIR": folder}
                command = [sys.executable, "-c", FIRST, *of, str(batch), str(pixels), sizes.device]
                done = subprocess.run(
                    command, env={**os.environ, **caches}, stdout=subprocess.PIPE, text=True, check=True
                )
            return {"seconds": float(done.stdout.split()[-1])}

        yield f"{network} {batch} x {pixels} px {name}", case


PARTS: dict[str, Callable[[Sizes], Iterator[tuple[str, Callable[[], Found]]]]] = {
    "correct": correct,
    "operations": operations,
    "steps": steps,
    "first_step": first_step,
}
