"""What a network comes to on data that it is not trained on: the task's figures, and dead units."""

from collections.abc import Iterator
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from ..data.augment import SampleRandom
from ..data.splits import Drawn, Split
from ..dead_units import dead_units
from .batches import stream
from .feed import Feed
from .measurements import added, sums_of
from .recipe import Recipe
from .tasks import Task

__all__ = ["Validation"]

DEAD_UNIT_SAMPLES = 256  # samples on which dead units are looked for


class Validation:
    """Figures over all processes.

    Args:
        accelerator: What the processes share.
        recipe: What is trained by.
        task: What for.
        feed: Reads the data.
    """

    def __init__(self, accelerator: Accelerator, recipe: Recipe, task: Task, feed: Feed) -> None:
        self._accelerator, self._recipe, self._task, self._feed = accelerator, recipe, task, feed

    def evaluate(self, network: nn.Module, data: Split) -> dict[str, float]:
        """The task's figures for a network on a data set; every sample counts once. All processes call it."""
        network.eval()
        process, processes = self._accelerator.process_index, self._accelerator.num_processes
        rows = range(process, len(data), processes)
        size = 1 if self._task.one_by_one else max(1, 4 * self._recipe.batch_size // processes)
        parts = [list(rows[start : start + size]) for start in range(0, len(rows), size)]
        found = []
        with torch.no_grad(), self._accelerator.autocast():
            for batch in self._feed.batches(data, parts):
                inputs, targets = self._task.inputs(batch, None)
                outputs = self._task.predict(network, self._feed.lay_out(inputs))
                found.append(sums_of(self._task.measure(outputs, targets)))
        return self.figures(added(found))

    def dead_units(self, network: nn.Module, data: Split, size: int) -> dict[str, float]:
        """Percent of dead channels and parameters, on some samples augmented as in training, in batches of `size`."""
        probes = min(DEAD_UNIT_SAMPLES, len(data))
        drawn: list[int] = [Drawn(row, stream(self._recipe.seed, row)) for row in range(probes)]
        rows = [drawn[start : start + size] for start in range(0, probes, size)]

        def batches() -> Iterator[tuple[Tensor, Any]]:
            for number, batch in enumerate(self._feed.batches(data, rows)):
                random = SampleRandom(stream(self._recipe.seed, number), len(rows[number]))
                inputs, targets = self._task.inputs(batch, random)
                yield self._feed.lay_out(inputs), targets

        return dead_units(network, batches(), self._task.loss).summarise()

    def figures(self, sums: Tensor | None, everywhere: bool = True) -> dict[str, float]:
        """The task's figures from the sums of this process, or of all."""
        assert sums is not None, "no data set is empty"
        if everywhere:
            sums = self._accelerator.reduce(self._exchanged(sums), "sum")
        *totals, count = sums.tolist()
        return self._task.summarise([total / count for total in totals])

    def gather(self, sums: Tensor) -> Tensor:
        """A row for each process, on the CPU."""
        rows: Tensor = self._accelerator.gather(self._exchanged(sums[None]))
        return rows.cpu()

    def _exchanged(self, sums: Tensor) -> Tensor:
        """Where processes can exchange it."""
        return sums.to(self._accelerator.device) if self._accelerator.num_processes > 1 else sums
