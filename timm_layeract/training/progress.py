"""What a person sees of an epoch: a bar with loss, accuracy, images per second and time left. Imports rich."""

import sys
import time
from types import TracebackType

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor

__all__ = ["EpochProgress"]


class EpochProgress:
    """Progress bar over the steps of an epoch, to be used as a context.

    Args:
        title: Shown at the left.
        steps: Number of steps.
        enabled: Show it, where the output is a terminal.
    """

    INTERVAL = 0.5  # seconds between looks at the running totals, which cost a synchronisation on a GPU

    def __init__(self, title: str, steps: int, enabled: bool = True) -> None:
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[figures]}"),
            TimeRemainingColumn(),
            transient=True,
            disable=not (enabled and sys.stdout.isatty()),
        )
        self._task = self._bar.add_task(title, total=steps, figures="")
        self._done = 0

    def __enter__(self) -> "EpochProgress":
        self._bar.start()
        self._started = self._looked = time.perf_counter()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()

    def advance(self, totals: Tensor, processes: int = 1) -> None:
        """One step further; `totals` holds this process's sums of loss and of correct answers, and its image count."""
        self._done += 1
        now = time.perf_counter()
        if self._bar.disable or now - self._looked < self.INTERVAL:
            return
        self._looked = now
        loss, correct, count = totals.tolist()
        rate = processes * count / (now - self._started)
        figures = f"loss {loss / count:.3f}  top-1 {100 * correct / count:5.2f} %  {rate:.0f} img/s"
        self._bar.update(self._task, completed=self._done, figures=figures)
