"""Batches of a run's data, where the network is and laid out as it takes them."""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from accelerate.utils import send_to_device
from torch import Tensor

from ..data.splits import Split
from .device_data import on_device
from .loading import RowLoader
from .recipe import Recipe

__all__ = ["Feed"]


class Feed:
    """Reads the training and the held-out data again and again, other data once.

    Args:
        recipe: Says where training data is kept, and how inputs lie in memory.
        train: Training data.
        val: Held-out data.
        device: Device of the network.
        workers: Processes that read; 0 reads in this one.
        skipped: As for `RowLoader`.
    """

    def __init__(
        self,
        recipe: Recipe,
        train: Split,
        val: Split,
        device: torch.device,
        workers: int,
        skipped: Callable[[str], None] | None = None,
    ) -> None:
        self._recipe, self._train, self._val, self._device = recipe, train, val, device
        self._workers, self._skipped = workers, skipped
        self._loaders: dict[int, RowLoader] = {}  # of data that is read every epoch
        self._on_device = on_device(train, recipe.data_on_device, device)

    def batches(self, data: Split, rows: list[list[int]]) -> Iterator[tuple[Any, ...]]:
        """The batches of these rows, on this process's device."""
        if data is self._train and self._on_device is not None:
            return self._on_device.batches(rows)
        kept = data is self._train or data is self._val
        loader = self._loaders.get(id(data))
        if loader is None:
            loader = RowLoader(data, self._workers, self._device.type == "cuda", kept, self._skipped)
        if kept:
            self._loaders[id(data)] = loader
        return (send_to_device(batch, self._device, non_blocking=True) for batch in loader(rows))

    def lay_out(self, inputs: Tensor) -> Tensor:
        """Inputs in the recipe's memory format."""
        return inputs.contiguous(memory_format=torch.channels_last) if self._recipe.channels_last else inputs
