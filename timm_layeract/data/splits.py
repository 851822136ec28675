"""What the training asks of data, of whatever kind; dividing it."""

from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch import Tensor
from typing_extensions import Self

from ..errors import UserError

__all__ = ["Drawn", "Split", "holdout"]


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
        """Processes that read it fastest, 0 for the one that needs it."""

    def __len__(self) -> int:
        """Number of samples."""

    def __getitems__(self, indices: Sequence[int]) -> tuple[Any, ...]:
        """A batch: inputs, as a uint8 tensor or a list of them, and targets; rows to train on are `Drawn`."""

    def take(self, indices: Tensor) -> Self:
        """The split of these samples only."""

    def sha256(self) -> str:
        """Hash of the samples, their identity in results."""


def holdout(split: Split, fraction: float, seed: int) -> tuple[Split, Split]:
    """Divide a split at random into ``(1 - fraction, fraction)``, always alike for a seed; the second part selects."""
    held = round(len(split) * fraction)
    if held == 0 or held == len(split):
        raise UserError(
            f"Holding out {fraction:g} of {len(split)} training samples leaves a part empty; "
            f"give more of them or another validation_fraction."
        )
    order = torch.randperm(len(split), generator=torch.Generator().manual_seed(seed))
    return split.take(order[held:]), split.take(order[:held])
