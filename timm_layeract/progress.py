"""Progress bars with the time left, where the output is a terminal. Imports rich."""

import sys
from collections.abc import Iterable, Sequence
from typing import TypeVar

from rich.progress import Progress, track

__all__ = ["progress_bar", "tracked"]

Item = TypeVar("Item")


def progress_bar(enabled: bool) -> Progress:
    """A bar to be used as a context; gone when it is done."""
    return Progress(transient=True, disable=not (enabled and sys.stdout.isatty()))


def tracked(items: Sequence[Item], title: str, enabled: bool) -> Iterable[Item]:
    """The items, with a bar that moves on with each."""
    return track(items, title, transient=True, disable=not (enabled and sys.stdout.isatty()))
