"""What the training asks of data, of whatever kind; dividing it."""

import os
from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch import Tensor
from typing_extensions import Self

from ..errors import UserError
from .brightness import Brightness

__all__ = ["Drawn", "OnDisk", "Split", "holdout", "spread"]


class Drawn(int):
    """The number of a row, with the seed of what is random about its sample this time.

    Attributes:
        seed: From 0.
    """

    seed: int

    def __new__(cls, row: int, seed: int) -> "Drawn":
        drawn = super().__new__(cls, row)
        drawn.seed = seed
        return drawn

    def __getnewargs__(self) -> tuple[int, int]:  # type: ignore[override]
        """For worker processes."""
        return int(self), self.seed


class Split(Protocol):
    """Samples with labels or masks: a map-style data set that hands out whole batches."""

    @property
    def classes(self) -> tuple[str, ...]:
        """Label names; none where labels are not read."""

    @property
    def workers(self) -> int:
        """Number of processes that read it fastest; 0 for reading in the calling process."""

    def __len__(self) -> int:
        """Number of samples."""

    def __getitems__(self, indices: Sequence[int]) -> tuple[Any, ...]:
        """A batch: inputs, as a uint8 tensor or a list of them, and targets; rows to train on are `Drawn`."""

    def take(self, indices: Tensor) -> Self:
        """The split of these samples only."""

    def sha256(self) -> str:
        """Hash of the samples, their identity in results."""


class OnDisk:
    """What splits have in common whose samples are decoded when they are asked for.

    Attributes:
        encoded: The samples as they lie in their files, with the brightness that they are scaled by.
    """

    encoded: Any

    @property
    def brightness(self) -> Brightness | None:
        """What images of more than 8 bits are scaled by."""
        brightness: Brightness | None = self.encoded.brightness
        return brightness

    @property
    def workers(self) -> int:
        """Processes that decode."""
        return os.cpu_count() or 1


def spread(rows: int, most: int) -> range:
    """At most so many of `rows` rows, evenly spaced from the first."""
    return range(0, rows, max(1, -(-rows // most)))


def holdout(split: Split, fraction: float, seed: int) -> tuple[Split, Split]:
    """Divide a split at random into ``(1 - fraction, fraction)``, determined by a seed; the second part is held out."""
    held = round(len(split) * fraction)
    if held == 0 or held == len(split):
        raise UserError(
            f"Holding out {fraction:g} of {len(split)} training samples leaves a part empty; "
            f"give more of them or another validation_fraction."
        )
    order = torch.randperm(len(split), generator=torch.Generator().manual_seed(seed))
    return split.take(order[held:]), split.take(order[:held])
