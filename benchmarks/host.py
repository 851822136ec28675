"""What a call costs on the host before its kernels start: ``python -m benchmarks.host``, without a GPU.

Launches are left out, everything before them runs: choosing the backend, autograd, allocations, arguments.
"""

import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn

from timm_layeract import LASiLU, kernels
from timm_layeract.kernels.triton import launch, layer_act
from timm_layeract.kernels.triton import norm_act as calls
from timm_layeract.layers.batch_norm_act import norm_act

__all__ = ["BARS", "measure"]

BARS = {"forward": 60.0, "backward": 100.0}  # microseconds
REPETITIONS = 200


def _call(operation: Callable[[], Tensor], g: Tensor) -> dict[str, float]:
    """Median microseconds of forward and backward."""
    times: dict[str, list[float]] = {"forward": [], "backward": []}
    for _ in range(REPETITIONS):
        started = time.perf_counter()
        y = operation()
        between = time.perf_counter()
        y.backward(g)
        times["forward"].append(between - started)
        times["backward"].append(time.perf_counter() - between)
    return {name: 1e6 * statistics.median(each) for name, each in times.items()}


def measure() -> dict[str, dict[str, float]]:
    """Microseconds by kind of call. Needs TRITON_INTERPRET=1, or a GPU."""
    x, r, g = (torch.randn(2, 64, 8, 8).contiguous(memory_format=torch.channels_last) for _ in range(3))
    x.requires_grad_()
    norm, act = nn.BatchNorm2d(64), LASiLU()
    started = {module: module.launch for module in (launch, layer_act, calls)}
    for module in started:
        module.launch = lambda *_: None  # type: ignore[attr-defined]
    try:
        with kernels.use_backend("triton"):
            return {
                "LA-SiLU": _call(lambda: act(x), g),
                "BatchNorm + LA-SiLU": _call(lambda: norm_act(x, norm, act), g),
                "BatchNorm + add + LA-SiLU": _call(lambda: norm_act(x, norm, act, r), g),
            }
    finally:
        for module, function in started.items():
            module.launch = function  # type: ignore[attr-defined]


if __name__ == "__main__":
    import os

    os.environ.setdefault("TRITON_INTERPRET", "1")
    torch.set_num_threads(1)
    for name, found in measure().items():
        shown = (f"{what} {value:.0f} us (at most {BARS[what]:.0f})" for what, value in found.items())
        print(f"{name}: {', '.join(shown)}")
