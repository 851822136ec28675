"""The CPU kernels: layeract.c, built by setup.py, loaded with ctypes.

The library shares torch's OpenMP threads (it asks for the runtime by the name under which torch has loaded it), and
takes as many as `torch.get_num_threads()`. All tensors are dense, float32 or bfloat16 alike, and lie in one memory
order, contiguous or channels-last: `dispatch` sees to it, and each function looks again before C gets an address
(`arguments.py`), as what was kept for backward may come back as something else.
"""

import ctypes
import importlib.machinery
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ...compat.torch import has_avx512_bf16
from .arguments import DTYPES, address_of, addresses_of

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

# Instruction sets that libraries are built for, from the widest, each of which runs those behind it.
INSTRUCTION_SETS = ["avx512_bf16", "avx512", "avx2", "default"]
# As torch: fewer elements than this are not worth waking a second thread.
GRAIN = 32768
STATS, VALUE, SUMS, GRADIENT = range(4)
ROWS = 11  # of coefficients for each channel
FLOAT = 4  # bytes
# Memory for a kernel is made like these, whatever dtype and device are the default when it runs.
FLOATS, DOUBLES = (torch.empty(0, dtype=dtype, device="cpu") for dtype in (torch.float32, torch.float64))
POINTER, INT, LONG, DOUBLE = ctypes.c_void_p, ctypes.c_int, ctypes.c_int64, ctypes.c_double
SHAPE = [LONG, LONG, LONG, INT]
FOLDER = Path(__file__).parent
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
            path = FOLDER / f"layeract_{name}{suffix}"
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
    y = torch.empty_like(x) if y is None else y
    at_x, at_y = addresses_of(x, y)
    samples, channels, positions, channels_last = _shape(x, weight is not None or bias is not None)
    stats, scratch = DOUBLES.new_empty(samples, 2), DOUBLES.new_empty(5, samples, channels)
    _check(
        _library.layer_act_forward(
            hard, x.dtype is torch.bfloat16, at_x, at_y, stats.data_ptr(), scratch.data_ptr(),
            address_of(weight, torch.float32, channels), address_of(bias, torch.float32, channels),
            samples, channels, positions, channels_last, alpha, _threads(x),
        )
    )  # fmt: skip
    return y, stats


def layer_act_backward(
    x: Tensor, g: Tensor, stats: Tensor, hard: bool, weight: Tensor | None, bias: Tensor | None
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """Gradient of x, and those of the affine weight and bias for each sample, ``(N, C)``, where there is either."""
    affine = weight is not None or bias is not None
    at_x, at_g = addresses_of(x, g)
    samples, channels, positions, channels_last = _shape(x, affine)
    dx, sums = torch.empty_like(x), DOUBLES.new_empty(5, samples, channels)
    _check(
        _library.layer_act_backward(
            hard, x.dtype is torch.bfloat16, at_x, at_g, dx.data_ptr(), address_of(stats, torch.float64, 2 * samples),
            sums.data_ptr(), address_of(weight, torch.float32, channels), address_of(bias, torch.float32, channels),
            samples, channels, positions, channels_last, _threads(x),
        )
    )  # fmt: skip
    return (dx, sums[1] * stats[:, 1:], sums[0]) if affine else (dx, None, None)


def norm_act_stats(x: Tensor, r: Tensor | None) -> Tensor:
    """For each (sample, channel): mean and centred squares of x, of r, and centred products; ``(5, N, C)`` float64."""
    out = DOUBLES.new_empty(5, *x.shape[:2])
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

    Also what `norm_act_gradient` takes in place of g and uses up: here the gradient but for the statistics.
    """
    out, u = DOUBLES.new_empty(5, *x.shape[:2]), torch.empty_like(x)
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


def _norm(norm: Any, channels: int) -> Any:
    """A `batch_norm.BatchNorm` by reference, None for None."""
    if norm is None:
        return None
    addresses = [address_of(t, torch.float32, channels) for t in (norm.weight, norm.bias, norm.mean, norm.var)]
    return ctypes.byref(Norm(*addresses, norm.training, norm.momentum, norm.eps))


def _norm_for_backward(norm: Any) -> Any:
    """What backward asks of it: whether it normalised by the batch."""
    return None if norm is None else ctypes.byref(Norm(training=norm.training))


def _kept(samples: int, channels: int, residual: bool) -> tuple[int, int, int]:
    """Of the floats that are kept for backward: where those of samples and of (sample, channel) begin, and how many."""
    of_samples = ROWS * channels
    of_both = of_samples + 4 * samples
    return of_samples, of_both, of_both + (5 if residual else 2) * samples * channels


def norm_act_forward(
    x: Tensor, r: Tensor | None, own: Any, other: Any, hard: bool, alpha: float, w: Tensor | None, b: Tensor | None
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """All of forward in one call, as Python between the passes takes as long as a pass on a small tensor.

    Takes a `batch_norm.BatchNorm` for x and one or None for r, all of whose tensors are contiguous float32. Returns the
    activation and what `norm_act_backward` needs beside its inputs.
    """
    at_x, at_r = addresses_of(x, r)
    samples, channels, positions, channels_last = _shape(x)
    of_samples, of_both, floats = _kept(samples, channels, r is not None)
    y, kept, norms = torch.empty_like(x), FLOATS.new_empty(floats), DOUBLES.new_empty(4, channels)
    work = DOUBLES.new_empty(5 * samples + 4, channels)
    at_kept = kept.data_ptr()
    _check(
        _library.norm_act_forward(
            hard, x.dtype is torch.bfloat16, at_x, at_r, y.data_ptr(), _norm(own, channels), _norm(other, channels),
            address_of(w, torch.float32, channels), address_of(b, torch.float32, channels),
            at_kept, at_kept + FLOAT * of_samples, at_kept + FLOAT * of_both, norms.data_ptr(), work.data_ptr(),
            samples, channels, positions, channels_last, alpha, _threads(x),
        )
    )  # fmt: skip
    return y, (kept, norms)


def norm_act_backward(
    x: Tensor, r: Tensor | None, g: Tensor, own: Any, other: Any, hard: bool, saved: tuple[Tensor, ...],
    parameters: list[Tensor | None],
) -> list[Tensor | None]:  # fmt: skip
    """All of backward: gradients of x, r and, of these `parameters` that are there, in the order of `batch_norm`'s."""
    at_x, at_r, at_g = addresses_of(x, r, g)
    samples, channels, positions, channels_last = _shape(x)
    of_samples, of_both, floats = _kept(samples, channels, r is not None)
    at_kept: int = address_of(saved[0], torch.float32, floats)  # type: ignore[assignment]
    at_norms = address_of(saved[1], torch.float64, 4 * channels)
    dx, dr = torch.empty_like(x), None if r is None else torch.empty_like(r)
    found = [None if p is None else FLOATS.new_empty(channels) for p in parameters]
    dweight, dbias, dw, db, dr_weight, dr_bias = (None if t is None else t.data_ptr() for t in found)
    work = DOUBLES.new_empty(5 * samples + 5, channels)
    _check(
        _library.norm_act_backward(
            hard, x.dtype is torch.bfloat16, at_x, at_r, at_g, dx.data_ptr(), None if dr is None else dr.data_ptr(),
            _norm_for_backward(own), _norm_for_backward(other), at_kept, at_kept + FLOAT * of_samples,
            at_kept + FLOAT * of_both, at_norms, work.data_ptr(), dweight, dr_weight,
            dr_bias if dbias is None else dbias, dw, db,  # the sum of dz is the gradient of either shift
            samples, channels, positions, channels_last, _threads(x),
        )
    )  # fmt: skip
    if found[1] is not None and found[5] is not None:
        found[5].copy_(found[1])
    return [dx, dr, *found]


def _pass(
    which: int, hard: bool, x: Tensor, r: Tensor | None, g: Tensor | None, y: Tensor | None, dr: Tensor | None,
    channels: Tensor | None, samples: Tensor | None, out: Tensor | None,
) -> None:  # fmt: skip
    addresses = addresses_of(x, r, g, y, dr)
    n, c = x.shape[:2]
    addresses += address_of(channels, torch.float32, ROWS * c), address_of(samples, torch.float32, 4 * n)
    addresses.append(address_of(out, torch.float64, 5 * n * c))
    bf16 = x.dtype is torch.bfloat16
    _check(_library.norm_act_pass(which, hard, bf16, *addresses, *_shape(x), _threads(x)))
