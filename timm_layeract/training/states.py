"""States of a run in files: trees of tensors, numbers and texts in safetensors' format.

No pickle is written or read: reading one can run code, and a run's folder may come from anybody. The tensors of a state
are those of the file, the tree around them is JSON in its header, where a tensor stands as ``{"tensor": NAME}``.
"""

import json
import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from .._utils.writing import write_whole
from ..errors import UserError

__all__ = ["RandomState", "read_state", "write_state"]

TREE = "tree"


def write_state(path: Path, state: object) -> None:
    """Write a tree of dicts (by text or whole number), lists, tuples, tensors, numbers, texts, booleans and None.

    Raises:
        TypeError: Something else is in it.
    """
    tensors: dict[str, Tensor] = {}
    tree = json.dumps(_packed(state, tensors, set()))
    write_whole(path, save(tensors, {TREE: tree}))


def read_state(path: Path) -> Any:
    """What `write_state` wrote, tensors on the CPU.

    Raises:
        UserError: It is no such file.
    """
    try:
        with safe_open(path, framework="pt") as file:
            tree = json.loads((file.metadata() or {})[TREE])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118, it is no mapping
        return _unpacked(tree, tensors)
    except (OSError, SafetensorError, ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise UserError(f"{path} is not the state of a run: {type(error).__name__}: {str(error)[:200]}") from error


def _packed(value: object, tensors: dict[str, Tensor], storages: set[int]) -> object:
    """A value in JSON's form, with its tensors moved into `tensors`, no two of which may share memory."""
    if isinstance(value, Tensor):
        name = str(len(tensors))
        # The largest stride first, so that what has no gaps keeps its layout in memory, channels_last for one.
        strides = value.stride()
        order = sorted(range(value.dim()), key=lambda axis: (-strides[axis], axis))
        dense = value.detach().cpu().permute(order).contiguous()
        storage = dense.untyped_storage().data_ptr()
        tensors[name] = dense.clone() if storage in storages else dense
        storages.add(storage)
        return {"tensor": name, "order": order}
    if isinstance(value, Mapping):
        if not all(type(key) in (str, int) for key in value):
            raise TypeError(f"a state cannot hold a dict with the keys {list(value)[:3]}")
        return {"dict": [[key, _packed(each, tensors, storages)] for key, each in value.items()]}
    if isinstance(value, list | tuple):
        return {type(value).__name__: [_packed(each, tensors, storages) for each in value]}
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise TypeError(f"a state cannot hold {type(value).__name__}")


def _unpacked(value: Any, tensors: Mapping[str, Tensor]) -> Any:
    if not isinstance(value, dict):
        return value
    if "tensor" in value:
        order = value["order"]
        return tensors[value["tensor"]].permute(sorted(range(len(order)), key=order.__getitem__))
    ((kind, entries),) = value.items()
    if kind == "dict":
        return {key: _unpacked(each, tensors) for key, each in entries}
    return {"list": list, "tuple": tuple}[kind](_unpacked(each, tensors) for each in entries)


class RandomState:
    """The random numbers of this process: Python's, numpy's, torch's, and those of its device.

    Args:
        device: Device of this process.
    """

    def __init__(self, device: torch.device) -> None:
        self._kind = device.type
        self._device: Any = None if device.type == "cpu" else getattr(torch, device.type)

    def state_dict(self) -> dict[str, object]:
        """Where they stand."""
        numpy: Any = np.random.get_state(legacy=False)
        return {
            "python": random.getstate(),
            "numpy": {**numpy, "state": {**numpy["state"], "key": numpy["state"]["key"].tolist()}},
            "torch": torch.get_rng_state(),
            **({self._kind: self._device.get_rng_state()} if self._device else {}),
        }

    def load_state_dict(self, state: Any) -> None:
        """Restore them; those of another kind of device are ignored."""
        numpy = state["numpy"]
        key = np.array(numpy["state"]["key"], dtype=np.uint32)
        random.setstate(state["python"])
        np.random.set_state({**numpy, "state": {**numpy["state"], "key": key}})
        torch.set_rng_state(state["torch"])
        if self._device and self._kind in state:
            self._device.set_rng_state(state[self._kind])
