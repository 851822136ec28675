"""Progress bars with the time left, where the output is a terminal."""

import sys
from collections.abc import Iterable
from typing import TypeVar

from rich.progress import Progress, track

__all__ = ["progress_bar", "tracked"]

Item = TypeVar("Item")


def progress_bar(enabled: bool) -> Progress:
    """A bar to be used as a context; gone when it is done."""
    return Progress(transient=True, disable=not (enabled and sys.stdout.isatty()))


def tracked(items: Iterable[Item], title: str, enabled: bool, total: int | None = None) -> Iterable[Item]:
    """The items, with a bar that moves on with each; `total` where they cannot be counted beforehand."""
    return track(items, title, total, transient=True, disable=not (enabled and sys.stdout.isatty()))
