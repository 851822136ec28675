"""Which implementation computes a tensor's LayerAct: the plain torch composite, or fused kernels.

The composite is the definition, and runs wherever a kernel can't: other dtypes and layouts, and every transformation of
the program that has to see differentiable torch operations.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Literal

import torch
from torch import Tensor
from torch.nn import Parameter

from ..compat.torch import is_unwrapped, transformed, watched
from ..errors import UserError, did_you_mean
from . import compiled, cpu, triton
from .measured import ON_GPU

__all__ = [
    "VARIABLE",
    "Backend",
    "are_of_channels",
    "backend_for",
    "is_alike",
    "is_plain",
    "kernels_for",
    "lie_as",
    "memory_format",
    "use_backend",
]

Backend = Literal["composite", "compiled", "cpu", "triton"]
VARIABLE = "LAYERACT_BACKEND"
_KERNELS: dict[str, ModuleType] = {"compiled": compiled, "cpu": cpu, "triton": triton}


def _check_backend(name: str, source: str) -> str:
    known = ["composite", *_KERNELS]
    if name not in known:
        raise UserError(f"{source} is {name!r}; {did_you_mean(name, known)}")
    if name in _KERNELS and not _KERNELS[name].available():
        fix = {
            "compiled": "install triton",
            "cpu": "reinstall the package where a C compiler (gcc or clang) is found",
            "triton": "install triton, and use a GPU or set TRITON_INTERPRET=1",
        }[name]
        raise UserError(f"{source} is {name!r}, whose kernels are not available: {fix}, or leave it unset.")
    return name


# Read once: asking the environment takes longer than a small tensor's kernel.
_forced: str | None = _check_backend(os.environ[VARIABLE], VARIABLE) if os.environ.get(VARIABLE) else None


@contextmanager
def use_backend(name: Backend) -> Iterator[None]:
    """Within the block, compute with this backend wherever it can, and with the composite elsewhere.

    Raises:
        UserError: No such backend, or its kernels are not available on this machine.
    """
    global _forced
    before, _forced = _forced, _check_backend(name, "backend")
    try:
        yield
    finally:
        _forced = before


def backend_for(x: Tensor) -> Backend:
    """Name the backend that computes LayerAct of `x` here and now.

    ``"cpu"`` and ``"triton"`` are fused kernels, ``"compiled"`` is the definition through torch.compile, and
    ``"composite"`` the definition itself. On a GPU, `measured` says which is the default.

    Set the environment variable LAYERACT_BACKEND before importing the package to allow one only, or see `use_backend`.
    A custom scale, and a gradient that is itself differentiated, run through the composite whatever this says.
    """
    # A sample of one element has nothing to normalise, and the kernels' sums would only round its gradient.
    if not is_plain(x) or memory_format(x) is None or x.numel() <= len(x):
        return "composite"
    on_cpu = x.device.type == "cpu"
    name = _forced or ("cpu" if on_cpu else ON_GPU)
    if name == "composite" or (name == "cpu" and not on_cpu):
        return "composite"
    if x.dtype not in _KERNELS[name].DTYPES or not _is_allocated(x) or not _KERNELS[name].available(x):
        return "composite"
    return name  # type: ignore[return-value]


def is_plain(x: Tensor) -> bool:
    """Whether `x` is a tensor as it is, of which nobody follows the operations: no compiler, no transformation."""
    return not torch.compiler.is_compiling() and not _followed() and is_unwrapped(x)


def _is_allocated(x: Tensor) -> bool:
    """Whether a tensor of any numbers has memory (a sharded one may have given it back), where its dtype may lie."""
    address = x.data_ptr()
    return address != 0 and address % x.itemsize == 0


def is_alike(x: Tensor, r: Tensor) -> bool:
    """Whether a kernel that takes `x` takes `r` beside it: of its shape, dtype, device and memory order."""
    return (
        r.dtype is x.dtype
        and is_unwrapped(r)
        and r.get_device() == x.get_device()
        and r.shape == x.shape
        and memory_format(r) is memory_format(x)
        and _is_allocated(r)
    )


def are_of_channels(x: Tensor, *tensors: Tensor | None) -> bool:
    """Whether all that are there hold one number a channel of `x`, where kernels find it, in its dtype or float32."""
    channels, device, dtype = x.shape[1], x.get_device(), x.dtype
    for t in tensors:
        if t is not None and not (
            (type(t) is Parameter or type(t) is Tensor)
            and (t.dtype is torch.float32 or t.dtype is dtype)
            and t.get_device() == device
            and t.numel() == channels
            and t.dim() == 1
            and t.is_contiguous()
            and not t.is_neg()
            and (address := t.data_ptr())  # a tensor on "meta", or whose memory was given back, is nowhere
            and not address & 3
        ):
            return False
    return True


def kernels_for(x: Tensor) -> ModuleType | None:
    """The module of fused kernels for `x`, None for the composite."""
    return _KERNELS.get(backend_for(x))


def memory_format(x: Tensor) -> torch.memory_format | None:
    """The order in which `x` lies in memory without gaps: contiguous, channels-last, or None for any other."""
    if x.dim() < 2 or x.layout != torch.strided:
        return None
    if x.is_contiguous():
        return torch.contiguous_format
    if x.dim() == 4 and x.is_contiguous(memory_format=torch.channels_last):
        return torch.channels_last
    if x.dim() == 5 and x.is_contiguous(memory_format=torch.channels_last_3d):
        return torch.channels_last_3d
    return None


def lie_as(x: Tensor, g: Tensor) -> Tensor:
    """`g` in the memory order of `x`, copied where it lies otherwise."""
    order = memory_format(x)
    assert order is not None, "kernels take dense tensors only"
    g = g.contiguous(memory_format=order)
    return g if _is_allocated(g) else g.clone()


def _followed() -> bool:
    """Whether vmap, jvp and the like, forward-mode derivatives, a mode or a tracer look at the operations."""
    return transformed() or watched() or torch.jit.is_tracing()
