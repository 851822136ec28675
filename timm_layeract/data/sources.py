"""Where images come from: a Hub dataset, a folder of parquet files or an image folder.

Reading goes through `datasets`. A split that fits into memory is decoded once into one uint8 tensor, so that an epoch
costs no Python work per image; a larger one stays on disk, and worker processes decode.
"""

import hashlib
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from io import BytesIO
from pathlib import Path
from typing import IO, Any

import datasets
import numpy as np
import torch
from PIL import Image
from torch import Tensor

from .._utils.progress import tracked
from ..errors import UserError, did_you_mean

__all__ = [
    "EncodedRows",
    "ImageSplit",
    "Split",
    "StoredSplit",
    "encoded_test_rows",
    "holdout",
    "is_data_set",
    "load_splits",
    "load_test_split",
    "open_data_set",
]

# A decoded split larger than this stays on disk: it would not fit beside a network on an ordinary machine.
MAX_BYTES = 16 * 2**30
SAVED = "dataset_dict.json"  # in what `DatasetDict.save_to_disk` writes
TEST_NAMES = ("test", "validation", "valid", "val")  # the first that a data set has is its test split


@dataclass(frozen=True)
class ImageSplit(torch.utils.data.Dataset[tuple[Tensor, Tensor]]):
    """Images and labels in memory; a torch dataset that hands out a whole batch by one indexing operation.

    Attributes:
        images: uint8, ``(N, 3, H, W)``.
        labels: int64, ``(N,)``, indices into `classes`.
        classes: Label names.
    """

    images: Tensor
    labels: Tensor
    classes: tuple[str, ...]
    workers = 0  # cutting batches from a tensor is one operation: other processes would only add copies

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return self.images[index], self.labels[index]

    def __getitems__(self, indices: Sequence[int]) -> tuple[Tensor, Tensor]:
        rows = torch.as_tensor(indices)
        return self.images[rows], self.labels[rows]

    def take(self, indices: Tensor) -> "ImageSplit":
        """The split of these rows only."""
        return ImageSplit(self.images[indices], self.labels[indices], self.classes)

    def sha256(self) -> str:
        """Hash of the decoded pixels and labels, the data's identity in results."""
        digest = hashlib.sha256(self.images.numpy().tobytes())
        digest.update(self.labels.numpy().tobytes())
        return digest.hexdigest()


@dataclass(frozen=True)
class StoredSplit(torch.utils.data.Dataset[tuple[Tensor, Tensor]]):
    """Images on disk, decoded when they are asked for; as `ImageSplit` in everything else.

    Attributes:
        rows: Encoded images.
        column: Name of the image column.
        labels: int64, ``(N,)``, indices into `classes`.
        classes: Label names.
        image_size: (H, W) that every image is resized to.
        source: Named in errors.
    """

    rows: datasets.Dataset
    column: str
    labels: Tensor
    classes: tuple[str, ...]
    image_size: tuple[int, int]
    source: str

    def __len__(self) -> int:
        return len(self.labels)

    def __getitems__(self, indices: Sequence[int]) -> tuple[Tensor, Tensor]:
        files = self.rows[list(indices)][self.column]
        images = [_read(file, self.image_size, self.source, index) for index, file in zip(indices, files, strict=True)]
        return torch.stack(images), self.labels[torch.as_tensor(indices)]

    @property
    def workers(self) -> int:
        """Processes that decode."""
        return os.cpu_count() or 1

    def take(self, indices: Tensor) -> "StoredSplit":
        """The split of these rows only."""
        return replace(self, rows=self.rows.select(indices.tolist()), labels=self.labels[indices])

    def sha256(self) -> str:
        """Hash of all labels and of a thousand images' files spread over the split: reading all would take hours."""
        digest = hashlib.sha256(self.labels.numpy().tobytes())
        for index in range(0, len(self), -(-len(self) // 1000)):
            digest.update(_open_file(self.rows[index][self.column]).read())
        return digest.hexdigest()


Split = ImageSplit | StoredSplit


def holdout(split: Split, fraction: float, seed: int) -> tuple[Split, Split]:
    """Divide a split at random into ``(1 - fraction, fraction)``, always alike for a seed; the second part selects."""
    held = round(len(split) * fraction)
    if held == 0 or held == len(split):
        raise UserError(
            f"Holding out {fraction:g} of {len(split)} training samples leaves a part empty; "
            f"give more of them or another validation_fraction."
        )
    order = torch.randperm(len(split), generator=torch.Generator().manual_seed(seed))
    return split.take(order[held:]), split.take(order[:held])


def load_splits(
    source: str,
    image_size: tuple[int, int],
    test_size: tuple[int, int] | None = None,
    progress: bool = True,
    labelled: bool = True,
) -> dict[str, Split]:
    """Read a labelled image data set, and decode it if it fits into memory.

    Args:
        source: Folder with parquet files named after their split (``train-*.parquet``), folder of images as
            ``split/class/image.png`` or ``class/image.png``, folder that `datasets` saved, or Hub data set id
            (``uoft-cs/cifar10``).
        image_size: (H, W) that every image is resized to, where it has another size.
        test_size: The same for the test split; `image_size` if None.
        progress: Show a progress bar while decoding.
        labelled: Read labels; without them the images may lie in a folder as they are, and every label is 0.

    Returns:
        ``"train"`` and, where the data set has a test split (or only a validation split), ``"test"``.

    Raises:
        UserError: No such folder or data set, no image or label column, no training split, unreadable images.
    """
    loaded = open_data_set(source)
    test_name = _test_name(loaded)
    if "train" not in loaded:
        raise UserError(f"{source} has no 'train' split, only {', '.join(loaded)}; name the training files train*.")
    wanted = {"train": "train", **({"test": test_name} if test_name else {})}
    sizes = {"train": image_size, "test": test_size or image_size}
    return {name: _split(loaded[split], source, sizes[name], progress, labelled) for name, split in wanted.items()}


def load_test_split(source: str, image_size: tuple[int, int], progress: bool = True) -> ImageSplit:
    """Read only what a model is tested on: the test split, else the validation split, else the only split there is.

    Arguments as for `load_splits`.

    Raises:
        UserError: No such folder or data set, no image or label column, no split to test on, unreadable images, or
            more than fit into memory.
    """
    loaded = open_data_set(source)
    split = _split(loaded[_test_split(loaded, source)], source, image_size, progress)
    if isinstance(split, StoredSplit):
        raise UserError(f"The {len(split)} test images of {source} decode to more than {MAX_BYTES >> 30} GiB.")
    return split


@dataclass(frozen=True)
class EncodedRows:
    """Images of a split as they lie in their files, with their labels.

    Attributes:
        rows: Encoded images.
        column: Name of the image column.
        labels: int64, ``(N,)``, indices into `classes`.
        classes: Label names.
        split: What the data set calls the split.
        source: Named in errors.
    """

    rows: datasets.Dataset
    column: str
    labels: Tensor
    classes: tuple[str, ...]
    split: str
    source: str

    def __len__(self) -> int:
        return len(self.labels)

    def open(self, index: int) -> Image.Image:
        """One image, decoded, in the mode and size that it has; UserError if it cannot be read."""
        file = self.rows[index][self.column]
        try:
            with _open_file(file) as stream:
                picture = Image.open(stream)
                picture.load()
        except OSError as error:
            name = file["path"] or f"number {index}"
            raise UserError(f"{self.source}: image {name} cannot be read ({error}); remove or replace it.") from error
        return picture


def encoded_test_rows(source: str, split: str | None = None) -> EncodedRows:
    """The split that a model is tested on, or the one named, not decoded yet.

    Args:
        source: As of `load_splits`.
        split: Name of a split; the test split if None, else the validation split, else the only one.

    Raises:
        UserError: No such data set or split, no image or label column, labels outside their classes.
    """
    loaded = open_data_set(source)
    if split is not None and split not in loaded:
        raise UserError(f"{source} has no split {split!r}; {did_you_mean(split, loaded)}")
    name = split or _test_split(loaded, source)
    rows = loaded[name]
    column = _column(rows, source, datasets.Image, "image")
    labels, classes = _labels(rows, source)
    files = rows.select_columns([column]).cast_column(column, datasets.Image(decode=False))
    return EncodedRows(files, column, labels, classes, name, source)


def _test_split(loaded: datasets.DatasetDict, source: str) -> str:
    """Name of the split to test on: test, else validation, else the only one."""
    name = _test_name(loaded) or (next(iter(loaded)) if len(loaded) == 1 else None)
    if name is None:
        raise UserError(f"{source} has no test split, only {', '.join(loaded)}; name the test files test*.")
    return name


def _test_name(loaded: datasets.DatasetDict) -> str | None:
    return next((name for name in TEST_NAMES if name in loaded), None)


def is_data_set(folder: Path) -> bool:
    """Whether a folder holds parquet files, or what `datasets` saved."""
    return any(folder.glob("*.parquet")) or (folder / SAVED).is_file()


def open_data_set(source: str) -> datasets.DatasetDict:
    """Open a folder or a Hub data set without decoding any image."""
    folder = Path(source)
    if (folder / SAVED).is_file():
        return datasets.load_from_disk(source)
    if folder.is_dir():
        files: dict[str, list[str]] = {}
        for path in sorted(folder.glob("*.parquet")):
            files.setdefault(re.split(r"[-._]", path.name)[0], []).append(str(path))
        if files:
            try:
                return datasets.load_dataset("parquet", data_files=files)
            except (ValueError, datasets.exceptions.DatasetGenerationError) as error:  # no rows; no parquet
                raise UserError(
                    f"The parquet files in {source} cannot be read: {str(error).splitlines()[0]}"
                ) from error
        if any(path.suffix.lower() in Image.registered_extensions() for path in folder.rglob("*")):
            return datasets.load_dataset("imagefolder", data_dir=str(folder), drop_labels=False)
        raise UserError(f"{source} holds neither parquet files nor images; --data takes either, or a Hub data set id.")
    if not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", source) or source.startswith("."):
        raise UserError(
            f"There is no data folder {source}; give a folder, or a Hub data set id such as uoft-cs/cifar10."
        )
    try:
        return datasets.load_dataset(source)
    except (OSError, datasets.exceptions.DatasetNotFoundError, datasets.exceptions.DataFilesNotFoundError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"{source} is neither a folder here nor a Hub data set that can be read: {reason}") from error


def _column(split: datasets.Dataset, source: str, kind: type, what: str) -> str:
    """Name of the one column of a feature type."""
    names = [name for name, feature in split.features.items() if isinstance(feature, kind)]
    if not names:
        hint = " Images with masks need --task segmentation." if "mask" in split.features else ""
        raise UserError(
            f"{source} has no {what} column ({kind.__name__}); its columns are {', '.join(split.features)}.{hint}"
        )
    return names[0]


def _split(
    rows: datasets.Dataset, source: str, image_size: tuple[int, int], progress: bool, labelled: bool = True
) -> Split:
    """A split with its labels checked, decoded if it fits into memory."""
    image_column = _column(rows, source, datasets.Image, "image")
    labels, classes = _labels(rows, source) if labelled else (torch.zeros(len(rows), dtype=torch.int64), ())
    files = rows.select_columns([image_column]).cast_column(image_column, datasets.Image(decode=False))
    height, width = image_size
    if len(rows) * 3 * height * width > MAX_BYTES:
        return StoredSplit(files, image_column, labels, classes, image_size, source)
    images = torch.empty(len(rows), 3, height, width, dtype=torch.uint8)
    for index, row in enumerate(tracked(files, f"decoding {len(rows)} images", progress)):
        images[index] = _read(row[image_column], image_size, source, index)
    return ImageSplit(images, labels, classes)


def _labels(rows: datasets.Dataset, source: str) -> tuple[Tensor, tuple[str, ...]]:
    """Labels and class names, checked."""
    column = _column(rows, source, datasets.ClassLabel, "label")
    labels = torch.tensor(rows[column][:], dtype=torch.int64)
    classes = tuple(rows.features[column].names)
    if len(labels) and (int(labels.min()) < 0 or int(labels.max()) >= len(classes)):
        raise UserError(
            f"{source} has labels from {int(labels.min())} to {int(labels.max())}, but {len(classes)} classes."
        )
    return labels, classes


def _open_file(file: dict[str, Any]) -> IO[bytes]:
    return BytesIO(file["bytes"]) if file["bytes"] else open(file["path"], "rb")


def _read(file: dict[str, Any], image_size: tuple[int, int], source: str, index: int) -> Tensor:
    """Decode one image of a split: uint8 ``(3, H, W)``."""
    height, width = image_size
    try:
        with _open_file(file) as stream:
            picture = Image.open(stream).convert("RGB")
    except OSError as error:
        name = file["path"] or f"number {index}"
        raise UserError(f"{source}: image {name} cannot be read ({error}); remove or replace it.") from error
    if picture.size != (width, height):
        picture = picture.resize((width, height), Image.Resampling.BILINEAR)
    return torch.from_numpy(np.array(picture)).permute(2, 0, 1)
