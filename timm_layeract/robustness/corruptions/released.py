"""Reading corrupted sets that were published: CIFAR-10-C and its kin (.npy), ImageNet-C and Tiny-ImageNet-C (folders).

Nothing is generated here, and a set that is not there is an error.
"""

from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from ...data.sources import ImageSplit
from ...data.test_images import load_test_split
from ...errors import UserError, did_you_mean
from .constants import CORRUPTIONS, SEVERITIES

__all__ = ["ReleasedSets"]


class ReleasedSets:
    """Corrupted sets in a folder as it was published.

    Args:
        folder: Holds ``CORRUPTION.npy`` (uint8 ``(5 N, H, W, 3)``, the severities one after the other) and
            ``labels.npy``, or ``CORRUPTION/SEVERITY/CLASS/*.JPEG``, where the corruptions may lie in subfolders.
        classes: Names of the classes of the clean set, in the order of the model's outputs.
        image_size: (H, W) of the model's input; images in folders are resized to it, arrays must have it.

    Raises:
        UserError: The folder is not there, is empty or holds something else.
    """

    origin = "released"

    def __init__(self, folder: str | Path, classes: tuple[str, ...], image_size: tuple[int, int]) -> None:
        self.folder, self.classes, self.image_size = Path(folder), classes, image_size
        if not self.folder.is_dir():
            raise UserError(f"There is no folder {folder} with released corruptions.")
        if any(self.folder.glob("*.npy")):
            self.is_array = True
            self._found = {path.stem: path for path in self.folder.glob("*.npy") if path.stem != "labels"}
            if not (self.folder / "labels.npy").is_file():
                raise UserError(f"{folder} has no labels.npy; it is in the same archive as the images.")
        else:
            self.is_array = False
            self._found = {
                path.name: path
                for path in sorted((*self.folder.glob("*"), *self.folder.glob("*/*")))
                if path.name in CORRUPTIONS and path.is_dir()
            }
        if not self._found:
            raise UserError(
                f"{folder} holds no corruptions, neither CORRUPTION.npy nor CORRUPTION/SEVERITY/CLASS/*.JPEG."
            )

    @property
    def names(self) -> tuple[str, ...]:
        """The corruptions that are there."""
        return tuple(sorted(self._found))

    def recipe(self, name: str, severity: int) -> None:
        """None: what is on disk is known by its hash only."""

    def sample(self, name: str, severity: int, index: int) -> Tensor:
        """One image of a set: uint8 ``(3, H, W)``."""
        return self.load(name, severity).images[index]

    def load(self, name: str, severity: int) -> ImageSplit:
        """One corruption at one severity.

        Raises:
            UserError: It is not there, has another size or number of images or classes than it should.
        """
        if self.is_array:
            return self._load_array(name, severity)
        return self._load_folder(self._path(name) / str(severity))

    def check(self, name: str) -> None:
        """Refuse (UserError) a corruption that `load` would, as far as can be told without reading its images."""
        if self.is_array:
            self._open_arrays(name)
        else:
            self._path(name)

    def _path(self, name: str) -> Path:
        """File or folder of a corruption."""
        if name not in self._found:
            raise UserError(f"{self.folder} has no {name}; {did_you_mean(name, self.names)}")
        return self._found[name]

    def _open_arrays(self, name: str) -> tuple[np.ndarray, np.ndarray]:
        """The images of all severities, read when they are looked at, and their labels."""
        path = self._path(name)
        images, labels = _array(path, mmap_mode="r"), _array(self.folder / "labels.npy")
        if images.dtype != np.uint8 or images.shape[1:] != (*self.image_size, 3) or len(images) % len(SEVERITIES):
            raise UserError(
                f"{path} should hold uint8 images of {'x'.join(map(str, self.image_size))}x3 in "
                f"five equal parts, and has {images.dtype} {images.shape}."
            )
        if labels.ndim != 1 or not np.issubdtype(labels.dtype, np.integer):
            raise UserError(
                f"{self.folder}/labels.npy should hold a whole number for each image, and has {labels.dtype} "
                f"{labels.shape}."
            )
        if len(labels) != len(images) or labels.max() >= len(self.classes) or labels.min() < 0:
            raise UserError(
                f"{self.folder}/labels.npy has {len(labels)} labels from {labels.min()} to {labels.max()}, for "
                f"{len(images)} images of {len(self.classes)} classes; take it from the same archive, and the clean "
                f"data that belongs to it."
            )
        return images, labels

    def _load_array(self, name: str, severity: int) -> ImageSplit:
        images, labels = self._open_arrays(name)
        count = len(images) // len(SEVERITIES)
        part = slice((severity - 1) * count, severity * count)
        pixels = torch.from_numpy(np.ascontiguousarray(images[part].transpose(0, 3, 1, 2)))
        return ImageSplit(pixels, torch.from_numpy(labels[part].astype(np.int64)), self.classes)

    def _load_folder(self, folder: Path) -> ImageSplit:
        if not folder.is_dir():
            raise UserError(f"There is no severity {folder.name} in {folder.parent}.")
        split = load_test_split(str(folder), self.image_size, progress=False)
        if len(split.classes) != len(self.classes):
            raise UserError(f"{folder} has {len(split.classes)} classes, the clean data {len(self.classes)}.")
        return split


def _array(path: Path, mmap_mode: Literal["r"] | None = None) -> np.ndarray:
    """The numbers of a ``.npy`` file; never its pickles."""
    try:
        return np.load(path, mmap_mode=mmap_mode, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise UserError(f"{path} cannot be read as an array of numbers: {error}") from error
