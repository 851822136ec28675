"""torch's names that are private, or that older versions lack (tested from 2.4)."""

from typing import Any

import torch
from torch.autograd import forward_ad
from torch.nn.modules.batchnorm import _BatchNorm as BatchNorm
from torch.nn.modules.dropout import _DropoutNd as Dropout
from torch.nn.modules.lazy import LazyModuleMixin

__all__ = [
    "PRIVATE",
    "BatchNorm",
    "Dropout",
    "LazyModuleMixin",
    "accelerator",
    "has_avx512_bf16",
    "in_backward",
    "is_compile_error",
    "transformed",
]

# Private name -> (since, what happens without it).
PRIVATE = {
    "torch._C._functorch.peek_interpreter_stack": ("2.0", "kernels would run under vmap and jvp, which see no result"),
    "torch.autograd.forward_ad._current_level": ("1.11", "the same under forward-mode derivatives"),
    "torch._C._current_graph_task_id": ("2.0", "a checkpointed block counts its batch twice"),
    "torch._dynamo.exc.TorchDynamoException": ("2.0", "where torch.compile fails, LayerAct on a GPU does too"),
    "torch.nn.modules.batchnorm._BatchNorm": ("0.4", "BatchNorm of any dimension is not told from other modules"),
    "torch.nn.modules.dropout._DropoutNd": ("0.4", "dropout between a normalisation and an activation hides it"),
    "torch.nn.modules.lazy.LazyModuleMixin": ("1.8", "no LazyLayerAct"),
}


class _Cuda:
    """What of `torch.accelerator` is asked here, of CUDA alone."""

    is_available = staticmethod(torch.cuda.is_available)
    current_device_index = staticmethod(torch.cuda.current_device)
    device_index = torch.cuda.device

    @classmethod
    def current_accelerator(cls, check_available: bool = False) -> torch.device | None:
        return torch.device("cuda") if cls.is_available() else None


# Public, whole since torch 2.8; before that devices other than CUDA's are not found.
_accelerator = getattr(torch, "accelerator", None)
accelerator: Any = _accelerator if hasattr(_accelerator, "device_index") else _Cuda


def transformed() -> bool:
    """Whether vmap, jvp and the like, or forward-mode derivatives, look at the operations."""
    return torch._C._functorch.peek_interpreter_stack() is not None or forward_ad._current_level >= 0


def in_backward() -> bool:
    """Whether this is called while gradients are taken, as a checkpointed block is when it is computed again."""
    return torch._C._current_graph_task_id() != -1


def is_compile_error(error: Exception) -> bool:
    """Whether it is torch.compile that failed, not the function."""
    from torch._dynamo.exc import TorchDynamoException  # takes a second to import

    return isinstance(error, TorchDynamoException)


def has_avx512_bf16() -> bool:
    """Whether this processor has the bfloat16 instructions of AVX-512; unknown, so False, before torch 2.6."""
    if hasattr(torch.cpu, "get_capabilities"):
        return bool(torch.cpu.get_capabilities().get("avx512_bf16"))
    supported = getattr(torch.cpu, "_is_avx512_bf16_supported", None)
    return supported is not None and supported()
