"""Which images make which optimizer step, and which part of a step this process takes.

An epoch's order depends on seed and epoch alone, so that a resumed run goes on where it stopped, and several processes,
or a batch taken in parts, see the images that one process would.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from ..data.splits import Drawn
from ..errors import UserError

__all__ = ["Batches", "Part", "enough_for_batch_norm", "stream"]


def stream(seed: int, *numbers: int) -> int:
    """A separate seed for each place in a run, so that a resumed run draws the same numbers as an uninterrupted one."""
    for number in numbers:
        seed = seed * 1_000_003 + number + 1
    return seed % 2**63


@contextmanager
def enough_for_batch_norm() -> Iterator[None]:
    """Explain (UserError) what to do if BatchNorm gets a single value per channel in training."""
    try:
        yield
    except ValueError as error:
        if "more than 1 value per channel" not in str(error):
            raise
        raise UserError(
            "The network comes down to one value a channel, which BatchNorm cannot train on one image at a time: give "
            "a --batch-size of 2 or more for each process, and for each part of accumulate."
        ) from error


@dataclass(frozen=True)
class Part:
    """What this process takes at once of one step's batch.

    Attributes:
        step: Number of the step in the epoch, from 0.
        indices: Rows of the split, each with a seed of its own.
        rows: Which of the batch's images these are.
        last: The optimizer steps after it.
    """

    step: int
    indices: list[int]
    rows: slice
    last: bool


@dataclass(frozen=True)
class Batches:
    """Cuts a split into steps, and steps into parts.

    Attributes:
        images: Images in the split; what does not fill a batch at an epoch's end waits for another epoch.
        batch_size: Images of one step, over all processes.
        seed: Seed of the order.
        accumulate: Parts of a process's share of a step, whose gradients are added up.
        process: This process's number.
        processes: How many there are.
        repeats: Times that an image comes in a row, of which fewer come in an epoch then (Hoffer et al. 2020).
    """

    images: int
    batch_size: int
    seed: int
    accumulate: int = 1
    process: int = 0
    processes: int = 1
    repeats: int = 1

    def __post_init__(self) -> None:
        """Refuse batches that cannot be cut."""
        if self.images < self.batch_size:
            raise UserError(
                f"{self.images} training samples do not fill one batch of {self.batch_size}; give a smaller batch_size."
            )
        if self.batch_size < self.processes * self.accumulate:
            raise UserError(
                f"A batch of {self.batch_size} cannot be shared by {self.processes} processes in {self.accumulate} "
                f"parts each; give a larger batch_size."
            )

    @property
    def steps(self) -> int:
        """Optimizer steps in an epoch."""
        return self.images // self.batch_size

    def parts(self, epoch: int, first_step: int, end: int) -> list[Part]:
        """This process's parts of the steps [first_step, end) of an epoch."""
        order = torch.randperm(self.images, generator=torch.Generator().manual_seed(stream(self.seed, epoch)))
        order = order.repeat_interleave(self.repeats)
        cuts = torch.arange(self.batch_size).tensor_split(self.processes * self.accumulate)
        own = cuts[self.process * self.accumulate : (self.process + 1) * self.accumulate]
        return [
            Part(
                step,
                self._drawn(order, epoch, step * self.batch_size + rows),
                slice(int(rows[0]), int(rows[-1]) + 1),
                index,
            )
            for step in range(first_step, end)
            for rows, index in zip(own, [False] * (self.accumulate - 1) + [True], strict=True)
        ]

    def _drawn(self, order: Tensor, epoch: int, places: Tensor) -> list[int]:
        """The rows at these places of an epoch's order."""
        found = zip(order[places].tolist(), places.tolist(), strict=True)
        return [Drawn(row, stream(self.seed, epoch, row, place % self.repeats)) for row, place in found]
