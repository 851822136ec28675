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

from ..compat.torch import is_unwrapped, transformed, watched
from ..errors import UserError, did_you_mean
from . import compiled, cpu, triton
from .measured import ON_GPU
from .memory import is_allocated, memory_format

__all__ = [
    "VARIABLE",
    "Backend",
    "backend_for",
    "is_plain",
    "kernels_for",
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
    if x.dtype not in _KERNELS[name].DTYPES or not is_allocated(x) or not _KERNELS[name].available(x):
        return "composite"
    return name  # type: ignore[return-value]


def is_plain(x: Tensor) -> bool:
    """Whether `x` is a tensor as it is, of which nobody follows the operations: no compiler, no transformation."""
    return not torch.compiler.is_compiling() and not _followed() and is_unwrapped(x)


def kernels_for(x: Tensor) -> ModuleType | None:
    """The module of fused kernels for `x`, None for the composite."""
    return _KERNELS.get(backend_for(x))


def _followed() -> bool:
    """Whether vmap, jvp and the like, forward-mode derivatives, a mode or a tracer look at the operations."""
    return transformed() or watched() or torch.jit.is_tracing()
