"""What a person sees of an epoch: a bar with its figures, images per second and time left."""

import sys
import time
from collections.abc import Callable, Mapping
from types import TracebackType

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

__all__ = ["EpochProgress", "show_classes", "show_dead", "show_figures"]


def show_figures(figures: dict[str, float]) -> str:
    """``{"loss": 0.41, "top1": 88.3}`` as ``loss 0.4100  top1 88.30``: what is no loss is a percentage.

    Figures of single classes (``iou/NAME``) are left out, see `show_classes`.
    """
    shown = {name: value for name, value in figures.items() if "/" not in name}
    return "  ".join(f"{name} {value:.{4 if 'loss' in name else 2}f}" for name, value in shown.items())


def show_classes(figures: Mapping[str, float]) -> str:
    """``{"iou/cat": 88.3, "iou/dog": 71.2}`` as ``cat 88.30, dog 71.20``; nothing where there are none."""
    by_class = {name.partition("/")[2]: value for name, value in figures.items() if "/" in name}
    return ", ".join(f"{name} {value:.2f}" for name, value in by_class.items())


def show_dead(dead: dict[str, float]) -> str:
    """``{"channels": 28.3, "parameters": 63.8}`` as ``28.3 % of channels, 63.8 % of parameters``."""
    return ", ".join(f"{share:.3g} % of {name}" for name, share in dead.items())


class EpochProgress:
    """Progress bar over the steps of an epoch, to be used as a context.

    Args:
        title: Shown at the left.
        steps: Number of steps.
        done: Steps done before, in a run that was resumed.
        enabled: Show it, where the output is a terminal.
        samples: What the steps are made of, in the plural.
    """

    INTERVAL = 0.5  # seconds between looks at the running totals, which cost a synchronisation on a GPU

    def __init__(self, title: str, steps: int, done: int = 0, enabled: bool = True, samples: str = "images") -> None:
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[figures]}"),
            TimeRemainingColumn(),
            transient=True,
            disable=not (enabled and sys.stdout.isatty()),
        )
        self._task = self._bar.add_task(title, total=steps, completed=done, figures="")
        self._done, self._before, self._samples = done, done, samples

    def __enter__(self) -> "EpochProgress":
        self._bar.start()
        self._started = self._looked = time.perf_counter()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()

    def advance(self, figures: Callable[[], dict[str, float]], images: int) -> None:
        """Advance by one step of so many images; `figures` is called now and then for what to show."""
        self._done += 1
        now = time.perf_counter()
        if self._bar.disable or now - self._looked < self.INTERVAL:
            return
        self._looked = now
        rate = (self._done - self._before) * images / (now - self._started)
        self._bar.update(
            self._task, completed=self._done, figures=f"{show_figures(figures())}  {rate:.0f} {self._samples}/s"
        )
