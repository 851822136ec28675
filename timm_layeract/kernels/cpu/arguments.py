"""Addresses of tensors for C, which looks at nothing: each is taken once dtype, device, size and layout are right."""

import torch
from torch import Tensor

from ..memory import memory_format

__all__ = ["DTYPES", "address_of", "addresses_of"]

DTYPES = (torch.float32, torch.bfloat16)


def address_of(tensor: Tensor | None, dtype: torch.dtype, count: int) -> int | None:
    """Where `count` numbers begin that lie side by side in memory; None for None.

    Raises:
        ValueError: The tensor is of another dtype or size, or not there.
    """
    if tensor is None:
        return None
    if tensor.dtype is dtype and tensor.numel() == count and tensor.is_cpu and tensor.is_contiguous():
        address = tensor.data_ptr()
        if address and not address % tensor.itemsize:
            return address
    raise ValueError(f"A LayerAct kernel takes {count} numbers of {dtype} on the CPU, not {_described(tensor)}.")


def addresses_of(x: Tensor, *others: Tensor | None) -> list[int | None]:
    """Where x begins, and tensors of its shape, dtype and memory order; None for None.

    Raises:
        ValueError: x is empty, of a dtype that no kernel takes, has gaps or is not there, or another is not like it.
    """
    order, dtype, shape = memory_format(x), x.dtype, x.shape
    address = x.data_ptr() if order is not None and dtype in DTYPES and x.is_cpu and x.numel() else 0
    if not address or address % x.itemsize:
        raise ValueError(f"A LayerAct kernel takes dense float32 or bfloat16 on the CPU, not {_described(x)}.")
    found: list[int | None] = [address]
    for t in others:
        if t is None:
            found.append(None)
            continue
        alike = t.dtype is dtype and t.is_cpu and t.shape == shape and memory_format(t) is order
        address = t.data_ptr() if alike else 0
        if not address or address % t.itemsize:
            raise ValueError(f"A LayerAct kernel takes tensors like {_described(x)}, not {_described(t)}.")
        found.append(address)
    return found


def _described(t: Tensor) -> str:
    kind = "" if type(t) in (Tensor, torch.nn.Parameter) else f"{type(t).__name__} of "
    strides = f", strides {list(t.stride())}" if t.layout is torch.strided else f", {t.layout}"
    return f"{kind}{t.dtype} {list(t.shape)} on {t.device}{strides}"
