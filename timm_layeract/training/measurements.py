"""What a run measures as it trains: sums over an epoch's samples, and whether the loss is finite.

Reading a number from a GPU waits for all that was asked of it. There, measurements of several parts of steps are read
at once, so that the host runs ahead; on the CPU each is read when it is there. Sums come out the same.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import UserError

__all__ = ["DivergedError", "Measurements", "added", "sums_of"]

AT_ONCE = 20  # parts of steps on a GPU


class DivergedError(UserError):
    """The loss of a run is not finite."""


@dataclass(frozen=True)
class Place:
    """Position of a part of a step in a run, counted from 0, and its learning rate."""

    epoch: int
    step: int
    lr: float


class Measurements:
    """Running sums, in float64 on the CPU, as not every device has it.

    Args:
        device: Where measurements are made.
    """

    def __init__(self, device: torch.device) -> None:
        self._at_once = 1 if device.type == "cpu" else AT_ONCE
        self._sums: Tensor | None = None
        self._waiting: list[tuple[Tensor, Place]] = []

    def add(self, sums: Tensor, loss: Tensor, epoch: int, step: int, lr: float) -> None:
        """Sums of one part of a step, and its loss.

        Raises:
            DivergedError: The loss of this part is not finite; on a GPU, that of this or one of the parts before.
        """
        self._waiting.append((torch.cat([sums, loss.detach()[None].to(sums)]), Place(epoch, step, lr)))
        if len(self._waiting) >= self._at_once:
            self.read()

    def read(self) -> None:
        """Wait for what has been added."""
        if not self._waiting:
            return
        (rows, places), self._waiting = zip(*self._waiting, strict=True), []
        for row, place in zip(torch.stack(rows).cpu(), places, strict=True):
            if not row[-1].isfinite():
                raise DivergedError(
                    f"The loss is not finite in epoch {place.epoch + 1}, step {place.step + 1} "
                    f"(lr {place.lr:.3g}): give a smaller --lr, or mixed_precision 'no'."
                )
            self._sums = row[:-1].double() if self._sums is None else self._sums + row[:-1]

    @property
    def sums(self) -> Tensor | None:
        """Means of what was added since the last reset; None if there was nothing."""
        self.read()
        return self._sums

    @sums.setter
    def sums(self, sums: Tensor | None) -> None:
        self._sums, self._waiting = sums, []


def sums_of(measured: Tensor) -> Tensor:
    """Sums over the samples of a batch, and their count."""
    return torch.cat([measured.sum(0), measured.new_full((1,), len(measured))])  # filled where it is: no copy to a GPU


def added(sums: list[Tensor]) -> Tensor | None:
    """Total of the sums, added in order in float64 on the CPU; None if there are none."""
    if not sums:
        return None
    first, *others = torch.stack(sums).cpu()
    total: Tensor = sum(others, first.double())
    return total
