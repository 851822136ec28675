"""The CPU kernels: layeract.c, built by setup.py, loaded with ctypes.

The library shares torch's OpenMP threads (it asks for the runtime by the name under which torch has loaded it), and
takes as many as `torch.get_num_threads()`. All tensors are dense, float32 or bfloat16 alike, and lie in one memory
order, contiguous or channels-last: `dispatch` sees to it.
"""

import ctypes
import importlib.machinery
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ...compat.torch import has_avx512_bf16

__all__ = [
    "DTYPES",
    "available",
    "layer_act_backward",
    "layer_act_forward",
    "norm_act_backward",
    "norm_act_forward",
    "norm_act_gradient",
    "norm_act_stats",
    "norm_act_sums",
    "norm_act_value",
]

DTYPES = (torch.float32, torch.bfloat16)
# Instruction sets that libraries are built for, from the widest, each of which runs those behind it.
INSTRUCTION_SETS = ["avx512_bf16", "avx512", "avx2", "default"]
# As torch: fewer elements than this are not worth waking a second thread.
GRAIN = 32768
STATS, VALUE, SUMS, GRADIENT = range(4)
POINTER, INT, LONG, DOUBLE = ctypes.c_void_p, ctypes.c_int, ctypes.c_int64, ctypes.c_double
SHAPE = [LONG, LONG, LONG, INT]
SIGNATURES = {
    "layer_act_forward": [INT, INT, *[POINTER] * 6, *SHAPE, DOUBLE, INT],
    "layer_act_backward": [INT, INT, *[POINTER] * 7, *SHAPE, INT],
    "norm_act_pass": [INT, INT, INT, *[POINTER] * 8, *SHAPE, INT],
    "norm_act_forward": [INT, INT, *[POINTER] * 12, *SHAPE, DOUBLE, INT],
    "norm_act_backward": [INT, INT, *[POINTER] * 17, *SHAPE, INT],
}


def _instruction_set() -> str:
    """This machine's, which ATEN_CPU_CAPABILITY narrows, as for torch's own kernels."""
    name = torch.backends.cpu.get_cpu_capability().lower()
    if name == "avx512" and has_avx512_bf16():
        return "avx512_bf16"
    return name if name in INSTRUCTION_SETS else "default"


def _load() -> Any:
    """The library for this machine's instruction set, or the next narrower one that was built; None without any."""
    for name in INSTRUCTION_SETS[INSTRUCTION_SETS.index(_instruction_set()) :]:
        for suffix in importlib.machinery.EXTENSION_SUFFIXES:
            path = Path(__file__).with_name(f"layeract_{name}{suffix}")
            if path.is_file():
                library = ctypes.CDLL(str(path))
                for function, arguments in SIGNATURES.items():
                    getattr(library, function).argtypes = arguments
                return library
    return None


_library = _load()


def available(x: Tensor | None = None) -> bool:
    """Whether the kernels were built when the package was installed (they take any `x` on the CPU)."""
    return _library is not None


def _pointer(tensor: Tensor | None) -> int | None:
    return None if tensor is None else tensor.data_ptr()


def _shape(x: Tensor, by_channel: bool = True) -> tuple[int, int, int, bool]:
    """Samples, channels, positions, and whether channels lie side by side.

    Where channels do not matter a sample is one row, in whatever order it lies in memory; with fewer samples than
    threads it is cut into as many rows as it has channels, so that threads can share it.
    """
    samples, channels = x.shape[:2]
    positions = x.numel() // (samples * channels)
    if by_channel:
        return samples, channels, positions, positions == 1 or not x.is_contiguous()
    if samples >= _threads(x):
        return samples, 1, channels * positions, False
    return samples, channels, positions, False


def _threads(x: Tensor) -> int:
    return min(torch.get_num_threads(), -(-x.numel() // GRAIN))


def _check(failed: int) -> None:
    if failed:
        raise MemoryError("Out of memory in a LayerAct kernel.")


def layer_act_forward(
    x: Tensor, hard: bool, alpha: float, weight: Tensor | None, bias: Tensor | None, y: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """LayerAct of x (written into `y` if given, which may be x), and each sample's mean and inverse deviation."""
    affine = weight is not None or bias is not None
    samples, channels, positions, channels_last = _shape(x, affine)
    y = torch.empty_like(x) if y is None else y
    stats = torch.empty(samples, 2, dtype=torch.float64)
    scratch = torch.empty(5, samples, channels, dtype=torch.float64)
    _check(
        _library.layer_act_forward(
            hard, x.dtype == torch.bfloat16, x.data_ptr(), y.data_ptr(), stats.data_ptr(), scratch.data_ptr(),
            _pointer(weight), _pointer(bias), samples, channels, positions, channels_last, alpha, _threads(x),
        )
    )  # fmt: skip
    return y, stats


def layer_act_backward(
    x: Tensor, g: Tensor, stats: Tensor, hard: bool, weight: Tensor | None, bias: Tensor | None
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """Gradient of x, and those of the affine weight and bias for each sample, ``(N, C)``, where there is either."""
    affine = weight is not None or bias is not None
    samples, channels, positions, channels_last = _shape(x, affine)
    dx = torch.empty_like(x)
    sums = torch.empty(5, samples, channels, dtype=torch.float64)
    _check(
        _library.layer_act_backward(
            hard, x.dtype == torch.bfloat16, x.data_ptr(), g.data_ptr(), dx.data_ptr(), stats.data_ptr(),
            sums.data_ptr(), _pointer(weight), _pointer(bias), samples, channels, positions, channels_last, _threads(x),
        )
    )  # fmt: skip
    return (dx, sums[1] * stats[:, 1:], sums[0]) if affine else (dx, None, None)


def norm_act_stats(x: Tensor, r: Tensor | None) -> Tensor:
    """For each (sample, channel): mean and centred squares of x, of r, and centred products; ``(5, N, C)`` float64."""
    out = torch.empty(5, *x.shape[:2], dtype=torch.float64)
    _pass(STATS, False, x, r, None, None, None, None, None, out)
    return out


def norm_act_value(x: Tensor, r: Tensor | None, hard: bool, channels: Tensor, samples: Tensor) -> Tensor:
    """The activation, from coefficients of each channel ``(11, C)`` and of each sample ``(4, N)``, float32."""
    y = torch.empty_like(x)
    _pass(VALUE, hard, x, r, None, y, None, channels, samples, None)
    return y


def norm_act_sums(
    x: Tensor, r: Tensor | None, g: Tensor, hard: bool, channels: Tensor, samples: Tensor
) -> tuple[Tensor, Tensor]:
    """For each (sample, channel), what the gradient needs to know of all positions; ``(5, N, C)`` float64.

    Also what `norm_act_gradient` takes in the place of g and uses up: here the gradient but for the statistics.
    """
    out, u = torch.empty(5, *x.shape[:2], dtype=torch.float64), torch.empty_like(x)
    _pass(SUMS, hard, x, r, g, u, None, channels, samples, out)
    return out, u


def norm_act_gradient(
    x: Tensor, r: Tensor | None, u: Tensor, hard: bool, channels: Tensor, samples: Tensor
) -> tuple[Tensor, Tensor | None]:
    """Gradients of x and r."""
    dr = None if r is None else torch.empty_like(r)
    _pass(GRADIENT, hard, x, r, None, u, dr, channels, samples, None)
    return u, dr


class Norm(ctypes.Structure):
    """The library's struct of that name."""

    _fields_ = (
        ("weight", POINTER), ("bias", POINTER), ("mean", POINTER), ("var", POINTER),
        ("training", INT), ("momentum", DOUBLE), ("eps", DOUBLE),
    )  # fmt: skip


def _norm(norm: Any) -> Any:
    """A `batch_norm.BatchNorm` by reference, None for None."""
    if norm is None:
        return None
    pointers = (_pointer(norm.weight), _pointer(norm.bias), _pointer(norm.mean), _pointer(norm.var))
    return ctypes.byref(Norm(*pointers, norm.training, norm.momentum, norm.eps))


def norm_act_forward(
    x: Tensor, r: Tensor | None, own: Any, other: Any, hard: bool, alpha: float, w: Tensor | None, b: Tensor | None
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """All of forward in one call, as Python between the passes takes as long as a pass on a small tensor.

    Takes a `batch_norm.BatchNorm` for x and one or None for r, all of whose tensors are contiguous float32. Returns the
    activation and what `norm_act_backward` needs beside its inputs.
    """
    samples, channels, positions, channels_last = _shape(x)
    y = torch.empty_like(x)
    of_channels, of_samples = torch.empty(11, channels), torch.empty(4, samples)
    kept = torch.empty(2 if r is None else 5, samples, channels)
    norms = torch.empty(4, channels, dtype=torch.float64)
    work = torch.empty(5 * samples + 4, channels, dtype=torch.float64)
    saved = (of_channels, of_samples, kept, norms)
    _check(
        _library.norm_act_forward(
            hard, x.dtype == torch.bfloat16, x.data_ptr(), _pointer(r), y.data_ptr(), _norm(own), _norm(other),
            _pointer(w), _pointer(b), *[tensor.data_ptr() for tensor in saved], work.data_ptr(),
            samples, channels, positions, channels_last, alpha, _threads(x),
        )
    )  # fmt: skip
    return y, saved


def norm_act_backward(
    x: Tensor, r: Tensor | None, g: Tensor, own: Any, other: Any, hard: bool, saved: tuple[Tensor, ...],
    parameters: list[Tensor | None],
) -> list[Tensor | None]:  # fmt: skip
    """All of backward: gradients of x, r and, of these `parameters` that are there, in the order of `batch_norm`'s."""
    samples, channels, positions, channels_last = _shape(x)
    dx, dr = torch.empty_like(x), None if r is None else torch.empty_like(r)
    dweight, dbias, dw, db, dr_weight, dr_bias = (None if p is None else torch.empty_like(p) for p in parameters)
    of_dz = dr_bias if dbias is None else dbias  # the sum of dz is the gradient of either shift
    work = torch.empty(5 * samples + 5, channels, dtype=torch.float64)
    _check(
        _library.norm_act_backward(
            hard, x.dtype == torch.bfloat16, x.data_ptr(), _pointer(r), g.data_ptr(), dx.data_ptr(), _pointer(dr),
            _norm(own), _norm(other), *[tensor.data_ptr() for tensor in saved], work.data_ptr(), _pointer(dweight),
            _pointer(dr_weight), _pointer(of_dz), _pointer(dw), _pointer(db),
            samples, channels, positions, channels_last, _threads(x),
        )
    )  # fmt: skip
    if dbias is not None and dr_bias is not None:
        dr_bias.copy_(dbias)
    return [dx, dr, dweight, dbias, dw, db, dr_weight, dr_bias]


def _pass(
    which: int, hard: bool, x: Tensor, r: Tensor | None, g: Tensor | None, y: Tensor | None, dr: Tensor | None,
    channels: Tensor | None, samples: Tensor | None, out: Tensor | None,
) -> None:  # fmt: skip
    pointers = [_pointer(tensor) for tensor in (x, r, g, y, dr, channels, samples, out)]
    bf16 = x.dtype == torch.bfloat16
    _check(_library.norm_act_pass(which, hard, bf16, *pointers, *_shape(x), _threads(x)))
