"""What the values of masks mean, over a whole data set: background and foreground, or classes.

Nothing is guessed. Masks of 0 and one other value, the same in every file, are background and foreground; what else
there may be, classes or instances, their owner says.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from .._utils.files import read_text
from ..errors import UserError
from .images import called, decode

__all__ = ["BINARY", "CLASSES_FILE", "VOID", "Labelling", "find_labelling", "read_class_names", "read_values"]

VOID = 255  # of pixels that count for nothing, where masks hold classes
FOREGROUND = ("foreground",)
CLASSES_FILE = "classes.txt"
SHOWN_VALUES = 5  # values in a message
HOW = "--masks classes (255 is void) or --masks binary (all but 0 is foreground, as of instances)"


def read_values(source: Path | bytes, name: str | None = None) -> np.ndarray:
    """Decode a mask: its values, whole numbers of 0 or more, ``(H, W)``.

    A palette's indices are the values. Where colour says nothing, the alpha channel is the mask.

    Args:
        source: File, or its content.
        name: What errors call it; the path if left out.

    Raises:
        UserError: Not an image, of several pages, in colour, with fractions, values below 0 or values in both colour
            and alpha; a JPEG of more than two values.
    """
    picture = decode(source, name)
    values = np.asarray(picture)
    if values.ndim == 3:
        values = _one_channel(values, f"Mask {called(source, name)}")
    if values.dtype == bool:
        values = values.astype(np.uint8)
    if np.issubdtype(values.dtype, np.floating):
        if not (np.isfinite(values) & (values == np.floor(values))).all():
            raise UserError(f"Mask {called(source, name)} holds fractions; a mask holds whole numbers.")
        values = values.astype(np.int64)
    if values.size and values.min() < 0:
        raise UserError(f"Mask {called(source, name)} holds {values.min()}; a mask holds numbers of 0 or more.")
    if getattr(picture, "format", None) == "JPEG" and len(_present(values)) > 2:
        raise UserError(f"Mask {called(source, name)} is a JPEG, which blurs the edges of a mask: save it as PNG.")
    return values


def _one_channel(values: np.ndarray, mask: str) -> np.ndarray:
    """The channel that is the mask, of ``(H, W, C)``."""
    if values.shape[2] in (2, 4):
        colours, alpha = values[..., :-1], values[..., -1]
        is_opaque = alpha.min() == alpha.max() > 0
        if not is_opaque and (colours == colours[:1, :1]).all():
            return alpha
        if not is_opaque and not np.array_equal(colours.any(-1), alpha > 0):
            raise UserError(f"{mask} says one thing in its colours and another in its alpha channel; save one of them.")
        values = colours
    if not (values == values[..., :1]).all():
        raise UserError(f"{mask} is in colour; give masks of one channel, or of a palette.")
    return values[..., 0]


@dataclass(frozen=True)
class Labelling:
    """What the values of a data set's masks mean.

    Attributes:
        names: Of the classes, in the order of their values; of two classes by background and foreground, the
            foreground's alone.
        foreground: Value of the foreground, None for every value but 0; of no meaning where there are more classes.
    """

    names: tuple[str, ...] = FOREGROUND
    foreground: int | None = None

    def apply(self, values: np.ndarray, mask: str) -> Tensor:
        """Values ``(H, W)`` as uint8 ``(H, W)``: 0 and 1, or the class of each pixel and `VOID`.

        Raises:
            UserError: Names the mask and the value that it should not hold.
        """
        if len(self.names) > 1:
            wrong = values[(values >= len(self.names)) & (values != VOID)]
            if wrong.size:
                raise UserError(
                    f"Mask {mask} holds the value {wrong[0]}; the data has the classes 0 to {len(self.names) - 1} "
                    f"({VOID} is void)."
                )
            return torch.from_numpy(values.astype(np.uint8))
        if self.foreground is not None and not ((values == 0) | (values == self.foreground)).all():
            raise UserError(
                f"Mask {mask} holds the values {_shown(_present(values))}, and those of the training images 0 and "
                f"{self.foreground}: say what they mean by {HOW}."
            )
        return torch.from_numpy((values != 0).astype(np.uint8))


BINARY = Labelling()


def find_labelling(
    masks: Iterable[tuple[np.ndarray, str]], source: str, meaning: str | None, names: Sequence[str] | None
) -> Labelling:
    """What the values of the training masks mean.

    Args:
        masks: Values of each mask, and what errors call it.
        source: What errors call the data.
        meaning: ``binary`` (all but 0 is foreground), ``classes``, or None for what the values say by themselves.
        names: Class names; if given, the values are classes.

    Raises:
        UserError: Values that may be meant in several ways; masks without any foreground, or of one class.
    """
    if names and meaning == "binary":
        raise UserError(f"{source}: class names are for masks of classes; leave them out, or masks=binary.")
    first: dict[int, str] = {}  # value -> the first mask that holds it
    for values, mask in masks:
        for value in _present(values):
            first.setdefault(value, mask)
    present = sorted(first)
    if present in ([], [0]):
        raise UserError(f"The masks of {source} are empty: no training image has any foreground.")
    if names or meaning == "classes":
        return _of_classes(first, source, tuple(names or ()))
    if meaning == "binary":
        return BINARY
    if len(present) == 2 and present[0] == 0:
        return Labelling(foreground=present[1])
    if len(present) == 1:
        raise UserError(f"Every pixel of every training mask of {source} is {present[0]}: there is no background.")
    others = [value for value in present if value and first[value] != first[present[-1]]]
    example = f" ({others[0]} is in {first[others[0]]}, {present[-1]} in {first[present[-1]]})" if others else ""
    raise UserError(f"The masks hold the values {_shown(present)}: say by {HOW} what those of {source} mean{example}.")


def _of_classes(first: dict[int, str], source: str, names: tuple[str, ...]) -> Labelling:
    """Classes by their number, given by names or by the highest value."""
    present = [value for value in sorted(first) if value != VOID]
    if len(present) < 2:
        raise UserError(f"The training masks of {source} hold one class only, {present[0] if present else VOID}.")
    if present[-1] > VOID:
        raise UserError(
            f"Mask {first[present[-1]]} holds the value {present[-1]}; classes run from 0 to {VOID - 1}, and {VOID} is "
            f"void."
        )
    if names and present[-1] >= len(names):
        raise UserError(
            f"Mask {first[present[-1]]} holds the value {present[-1]}; {len(names)} class names are given, for 0 to "
            f"{len(names) - 1}."
        )
    return Labelling(names or tuple(map(str, range(present[-1] + 1))))


def read_class_names(folder: Path, given: Sequence[str] | None) -> tuple[str, ...]:
    """Names of the classes, those given or those of a folder's ``classes.txt`` (one a line); none where there is none.

    Raises:
        UserError: Fewer than two names, more than there are values, one twice; a file that says other names than given.
    """
    names, path = tuple(given or ()), folder / CLASSES_FILE
    if path.is_file():
        lines = tuple(line.strip() for line in read_text(path).splitlines() if line.strip())
        if names and names != lines:
            raise UserError(f"{path} names the classes {_shown(lines)}, and {_shown(names)} are expected.")
        names = lines
    if names and not 2 <= len(names) <= VOID:
        raise UserError(f"Class names are of 2 to {VOID} classes, the background among them; got {len(names)}.")
    twice = [name for name in names if names.count(name) > 1]
    if twice:
        raise UserError(f"Two classes are called {twice[0]!r}.")
    return names


def _present(values: np.ndarray) -> list[int]:
    """The values that there are, in order."""
    if values.dtype == np.uint8:  # faster than sorting
        return list(map(int, np.flatnonzero(np.bincount(values.ravel(), minlength=256))))
    return list(map(int, np.unique(values)))


def _shown(values: Iterable[object]) -> str:
    """The first few, for a message."""
    listed = list(values)
    return ", ".join(map(str, listed[:SHOWN_VALUES])) + (", ..." if len(listed) > SHOWN_VALUES else "")
