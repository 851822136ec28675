"""Calls of the CPU kernels drawn at random: shapes, strides, offsets, values, threads and forks nobody thought of.

`make sanitize` runs this under the address and undefined-behaviour sanitizers, where a wrong access ends the process. A
few calls, always the same, run as a test, and are compared with torch's own operations where numbers are ordinary.
"""

import os
import random
import signal
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import torch
from torch import Tensor, nn

import timm_layeract.functional as LF
from timm_layeract import LAHardSiLU, LASiLU, LayerAct
from timm_layeract.layers.batch_norm_act import norm_act

SIZES = [0, 1, 1, 2, 3, 5, 7, 8, 15, 16, 17, 31, 32, 33, 63, 64, 65, 127, 200]
MOST = 60_000  # numbers in a tensor that is not one of the large ones
LARGE = [(1, 300_001), (2, 100_003, 1), (1, 1, 1500, 1001), (1, 70_001, 3, 2), (257, 3, 41, 33), (3, 33, 129, 127)]


def draw_shape(draw: random.Random) -> tuple[int, ...]:
    if draw.random() < 0.03:
        return draw.choice(LARGE)
    shape = [draw.choice(SIZES) for _ in range(draw.randint(2, 5))]
    while torch.Size(shape).numel() > MOST:
        index = shape.index(max(shape))
        shape[index] //= 2
    return tuple(shape)


def lay(x: Tensor, draw: random.Random) -> Tensor:
    """The same numbers, lying in some way."""
    formats = {4: torch.channels_last, 5: torch.channels_last_3d}
    ways: list[Callable[[], Tensor]] = [
        lambda: x,
        lambda: x,
        lambda: x.contiguous(memory_format=formats.get(x.dim(), torch.contiguous_format)),
        lambda: x.contiguous(memory_format=formats.get(x.dim(), torch.contiguous_format)),
        lambda: x.transpose(-1, 1).contiguous().transpose(-1, 1),
        lambda: x.repeat_interleave(2, dim=-1)[..., ::2],
        lambda: torch.cat([x[:1], x])[1:] if len(x) else x,  # it begins in the middle of its memory
        lambda: torch.cat([x.flatten()[:1], x.flatten()])[1:].view(x.shape) if x.numel() else x,
        lambda: x.mean(dim=-1, keepdim=True).expand(x.shape) if x.numel() else x,
        lambda: misaligned(x) if x.numel() else x,
        lambda: torch._neg_view(-x),
    ]
    return draw.choice(ways)()


def misaligned(x: Tensor) -> Tensor:
    memory = torch.zeros(x.element_size() * x.numel() + 1, dtype=torch.uint8).numpy()
    return torch.frombuffer(memory, dtype=x.dtype, offset=1).view(x.shape).copy_(x)


def draw_values(shape: tuple[int, ...], draw: random.Random, ordinary: bool) -> Tensor:
    x = torch.randn(shape, generator=torch.Generator().manual_seed(draw.getrandbits(31)))
    x = x * draw.choice([1.0, 1.0, 0.1, 3.0]) + draw.choice([0.0, 0.0, 1.0, -5.0])
    if not ordinary and x.numel():
        odd = [float("nan"), float("inf"), -float("inf"), 3e38, -3e38, 1e-42, 0.0]
        x.view(-1)[draw.randrange(x.numel())] = draw.choice(odd)
        x *= draw.choice([1.0, 0.0, 1e30, 1e-30])
    return x


def draw_site(shape: tuple[int, ...], draw: random.Random, dtype: torch.dtype, odd: bool) -> Callable[..., Tensor]:
    """A call of LayerAct, or of a BatchNorm with LayerAct behind it, with parameters of this dtype."""
    channels = shape[1]
    made: list[Callable[[], nn.Module]] = [LASiLU, LAHardSiLU, lambda: LayerAct("hardsigmoid", 1e-2, channels)]
    act = draw.choice(made)().to(dtype)
    if len(shape) != 4 or draw.random() < 0.4 or not channels:
        scale, alpha = draw.choice(["sigmoid", "hardsigmoid"]), draw.choice([1e-5, 1e-1])
        weight, bias = (
            torch.linspace(0.5, 1.5, channels, dtype=dtype) if draw.random() < 0.4 else None for _ in range(2)
        )
        return lambda x, _: LF.layer_act(x, scale, alpha, weight, bias)
    training, affine, tracked = (draw.random() < share for share in (0.6, 0.8, 0.8))
    options = dict(affine=affine, track_running_stats=tracked, dtype=torch.float16 if odd else dtype)
    norms = [nn.BatchNorm2d(channels, **options).train(training) for _ in range(2)]
    kind = draw.choice(["none", "plain", "normalized"])
    if kind == "none":
        return lambda x, _: norm_act(x, norms[0], act)
    return lambda x, r: norm_act(x, norms[0], act, r, norms[1] if kind == "normalized" else None)


def results(site: Callable[..., Tensor], x: Tensor, r: Tensor, g: Tensor, backward: bool) -> list[Tensor] | str:
    """Value and gradients, or the kind of error."""
    inputs = [t.detach().requires_grad_(backward) for t in (x, r)]
    try:
        y = site(*inputs)
        if backward:
            y.backward(g)
    except (RuntimeError, ValueError, TypeError) as error:
        return type(error).__name__
    return [y.detach(), *(t.grad for t in inputs if t.grad is not None)]


def check(seed: int) -> None:
    """One call and, where its numbers are ordinary, the same in float64, which no kernel takes."""
    call(seed, compare=True)


def call(seed: int, compare: bool = False) -> None:
    """One call of a kernel, if one takes what is drawn; see `check`."""
    draw = random.Random(seed)
    shape, ordinary = draw_shape(draw), draw.random() < 0.7
    dtype = draw.choice([torch.float32, torch.float32, torch.bfloat16])
    x, r, g = (lay(draw_values(shape, draw, ordinary).to(dtype), draw) for _ in range(3))
    backward, state = draw.random() < 0.8, draw.getstate()
    odd = not ordinary and draw.random() < 0.1
    found = results(draw_site(shape, draw, torch.float32, odd), x, r, g, backward)
    if not ordinary or not compare:
        return
    draw.setstate(state)
    site = draw_site(shape, draw, torch.float64, odd=False)
    exact = [torch.empty(shape, dtype=torch.float64).copy_(t) for t in (x, r, g)]
    wanted = results(site, *exact, backward)
    if isinstance(found, str) or isinstance(wanted, str):
        assert found == wanted, f"seed {seed}: {found} in place of {wanted}"
        return
    # A layer of little variance is known to few digits; numbers taken from the wrong place are wrong nearly everywhere.
    # torch's own batch_norm (2.14) reads a gradient in the wrong order that lies otherwise than x where a side is 1,
    # (200, 5, 5, 1) say, so that such gradients are compared with nothing.
    known = slice(1) if 1 in shape else slice(None)
    for actual, expected in zip(found[known], wanted[known], strict=True):
        if expected.numel():
            error = float((actual.double() - expected).abs().median() / expected.abs().max().clamp(min=1e-1))
            assert error < 0.03, f"seed {seed}: {error}"


def forked(seed: int) -> None:
    """Calls in a child process, as of a loader of data: one thread there, as after a fork there are no others."""
    child = os.fork()
    if not child:
        try:
            signal.alarm(60)
            torch.set_num_threads(1)
            for offset in range(3):
                call(seed + offset)
            os._exit(0)
        except BaseException as error:
            print(f"seed {seed} in a child process: {error}", file=sys.stderr)
            os._exit(1)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 0, f"seed {seed}: a child process ended with {status}"


def run(seed: int, seconds: float, between: Callable[[random.Random], None] = lambda _: None, fork: bool = True) -> int:
    """Calls for so long, alone and in several Python threads at once; how many.

    Args:
        seed: Of the first call; a failure names the seed to give to `call`.
        seconds: For how long at least.
        between: Called before each round.
        fork: Make calls in child processes, too.
    """
    draw, end, calls = random.Random(seed), time.monotonic() + seconds, 0
    threads = torch.get_num_threads()
    try:
        while True:
            between(draw)
            seeds = [draw.getrandbits(40) for _ in range(24)]
            if fork:  # not after the threads below, which may hold the sanitizer's locks while they end
                torch.set_num_threads(1)
                forked(draw.getrandbits(40))
            torch.set_num_threads(draw.randint(1, 4))
            for each in seeds[:8]:
                call(each)
            with ThreadPoolExecutor(4) as pool:
                list(pool.map(call, seeds[8:]))
            calls += len(seeds)
            if time.monotonic() > end:
                return calls
    finally:
        torch.set_num_threads(threads)
