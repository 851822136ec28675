"""What is to be predicted: image files, those of folders, and an image from standard input."""

import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..data.images import image_files
from ..errors import UserError

__all__ = ["SUFFIXES", "Input", "find_inputs", "nothing_to"]

SUFFIXES = (".mask.png", ".overlay.png")  # what segmentation writes, and nothing reads again
STANDARD_INPUT = Path("-")


@dataclass(frozen=True)
class Input:
    """An image: what it is called, and its file or content."""

    name: str
    source: Path | bytes

    @property
    def stem(self) -> str:
        """Name of what is written of it, without a suffix."""
        return Path(self.name).stem


def find_inputs(sources: Iterable[Path]) -> tuple[list[Input], list[str]]:
    """The images to read, and a line for each folder that holds none.

    Args:
        sources: Files; folders, of which all images are taken; ``-`` for one from standard input.

    Raises:
        UserError: A source is not there.
    """
    found: list[Input] = []
    empty = []
    for source in sources:
        if source == STANDARD_INPUT:
            found.append(Input("stdin", sys.stdin.buffer.read()))
        elif source.is_dir():
            paths = [path for path in image_files(source) if not path.name.endswith(SUFFIXES)]
            found += [Input(str(path), path) for path in paths]
            empty += [] if paths else [f"Folder {source} holds no image."]
        elif not source.exists():
            raise UserError(f"There is no file {source}.")
        else:
            found.append(Input(str(source), source))
    return found, empty


def nothing_to(do: str, failures: Sequence[str]) -> str:
    """What to say where none of the images can be read."""
    if not failures:
        return f"Give images to {do}."
    return f"There is nothing to {do}: {failures[0]}" + (f" (and {len(failures) - 1} more)" if failures[1:] else "")
