"""How tensors lie in memory: which of them kernels take beside one another, and laying others so."""

from typing import Any

import torch
from torch import Tensor
from torch.nn import Parameter

from ..compat.torch import is_unwrapped

__all__ = ["are_of_channels", "is_alike", "is_allocated", "lie_alike", "memory_format"]


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


def is_allocated(x: Tensor) -> bool:
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
        and is_allocated(r)
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


def lie_alike(x: Tensor, *others: Any) -> list[Any]:
    """`x` without gaps, and tensors beside it (None for none) in its memory order, copied where they lie otherwise.

    Gradients come in any order, and hooks on saved tensors bring back what they like.
    """
    order = memory_format(x)
    found = []
    for t in (x, *others):
        if t is not None:
            t = t.contiguous(memory_format=order or torch.contiguous_format)
            if not is_allocated(t):
                t = t.clone()
        found.append(t)
    return found
