"""torch's names that are private, or that older versions lack (tested from 2.4)."""

from operator import itemgetter
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.nn.modules import module as nn_module
from torch.nn.modules.batchnorm import _BatchNorm as BatchNorm
from torch.nn.modules.dropout import _DropoutNd as Dropout
from torch.nn.modules.lazy import LazyModuleMixin
from torch.utils._device import DeviceContext

__all__ = [
    "HOOKS",
    "PRIVATE",
    "BatchNorm",
    "Dropout",
    "LazyModuleMixin",
    "accelerator",
    "has_avx512_bf16",
    "in_backward",
    "is_compile_error",
    "is_hooked",
    "is_unwrapped",
    "transformed",
    "watched",
]

# Private name -> (since, what happens without it).
PRIVATE = {
    "torch._C._functorch.peek_interpreter_stack": ("2.0", "kernels would run under vmap and jvp, which see no result"),
    "torch.autograd.forward_ad._current_level": ("1.11", "the same under forward-mode derivatives"),
    "torch._C._dispatch_keys": (
        "1.10",
        "kernels would read what wraps a tensor, or one that is negated when it is read",
    ),
    "torch._C._len_torch_dispatch_stack": ("2.0", "kernels would run under modes (fake tensors), which see no result"),
    "torch._C._len_torch_function_stack": ("2.0", "the same under modes that see functions"),
    "torch.overrides._get_current_function_mode_stack": ("2.0", "a default device counts as such a mode"),
    "torch.utils._device.DeviceContext": ("2.0", "the same"),
    "torch.nn.modules.module._global_forward_hooks": ("1.5", "fused blocks would pass by hooks on all modules"),
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


# The dictionaries of hooks in which a module's call looks: names of a module's own, and those of all modules. Hooks of
# state dicts and of registration are not its call's.
HOOKS = tuple(
    name
    for name, value in vars(nn.Module()).items()
    if "hook" in name and isinstance(value, dict) and "state_dict" not in name
)
# Of these the first know all; others note how a hook is called.
_hooks = itemgetter(*(name for name in HOOKS if not name.endswith(("_with_kwargs", "_always_called"))))
_global_hooks: tuple[dict[int, Any], ...] = tuple(
    value
    for name, value in vars(nn_module).items()
    if name.startswith("_global_") and isinstance(value, dict) and "registration" not in name
)


def is_hooked(module: nn.Module) -> bool:
    """Whether a hook of any kind waits for a call of `module`, or of all modules, or for its gradients."""
    return any(_hooks(module.__dict__)) or any(_global_hooks)


def transformed() -> bool:
    """Whether vmap, jvp and the like, or forward-mode derivatives, look at the operations."""
    return torch._C._functorch.peek_interpreter_stack() is not None or forward_ad._current_level >= 0


def watched() -> bool:
    """Whether a mode looks at the operations: one of dispatch (fake tensors), or of functions other than a device."""
    if torch._C._len_torch_dispatch_stack():
        return True
    if not torch._C._len_torch_function_stack():
        return False
    return any(type(mode) is not DeviceContext for mode in torch.overrides._get_current_function_mode_stack())


# The dispatch keys, as bits, of tensors that are memory of their device and no more.
_MEMORY: set[object] = set()
_as_bits: Any = getattr(torch._C.DispatchKeySet, "raw_repr", str)  # older versions have words, which take longer


def is_unwrapped(x: Tensor) -> bool:
    """Whether `x` is dense memory of its device, and no more: no subclass, batch, nested, functional or lazy tensor."""
    if type(x) is not Tensor and type(x) is not nn.Parameter:
        return False
    keys = _as_bits(torch._C._dispatch_keys(x))
    if keys not in _MEMORY:
        for inference in (False, True):
            with torch.inference_mode(inference):
                _MEMORY.add(_as_bits(torch._C._dispatch_keys(torch.empty(0, device=x.device))))
    return keys in _MEMORY


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
