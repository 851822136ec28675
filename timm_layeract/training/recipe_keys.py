"""Keys of a recipe: which tasks they are for, what they are in the recipes of others, when results hold them."""

from dataclasses import field
from typing import Any, Literal

__all__ = ["PICTURES", "TaskName", "key_of", "photograph_key"]

TaskName = Literal["classification", "segmentation", "text"]
PICTURES: tuple[TaskName, ...] = ("classification", "segmentation")


def key_of(*tasks: TaskName, default: Any, off: Any = None, quiet: bool = False) -> Any:
    """A field of the recipes of these tasks; in others it is `off`, the default where that asks for nothing.

    One that is `quiet` is part of results only where it asks for something: they stay what they were before it came.
    """
    return field(default=default, metadata={"tasks": tasks, "off": default if off is None else off, "quiet": quiet})


def photograph_key(default: Any) -> Any:
    """A field that came with `train_crop_mode`."""
    return key_of("classification", default=default, quiet=True)
