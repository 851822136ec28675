"""The images that a network is tested on, without those to train on: decoded, or as they lie in their files."""

from dataclasses import dataclass

from torch import Tensor

from ..errors import UserError, did_you_mean
from .brightness import Brightness
from .columns import Columns, read_labels
from .opening import open_data_set, test_split
from .sources import MAX_BYTES, EncodedImages, ImageSplit, StoredSplit, decoded

__all__ = ["TestRows", "encoded_test_rows", "load_test_split"]


def load_test_split(
    source: str,
    image_size: tuple[int, int],
    progress: bool = True,
    columns: Columns | None = None,
    known: tuple[str, ...] = (),
) -> ImageSplit:
    """Read only what a model is tested on: the test split, else the validation split, else the only split there is.

    Arguments as for `load_splits`; `known` are classes whose order the labels are to follow.

    Raises:
        UserError: No such folder or data set, no image or label column, no split to test on, a class that is not known,
            unreadable images, or more than fit into memory.
    """
    loaded = open_data_set(source, columns=columns)
    columns, name = columns or Columns(), test_split(loaded, source)
    if progress and name != "test":
        print(f"{source}: measured on its {name} split")
    rows = loaded[name]
    labels, classes = read_labels(rows, source, columns.label, known)
    split = decoded(EncodedImages.of(rows, source, columns.image), labels, classes, image_size, progress)
    if isinstance(split, StoredSplit):
        raise UserError(f"The {len(split)} test images of {source} decode to more than {MAX_BYTES >> 30} GiB.")
    return split


@dataclass(frozen=True)
class TestRows:
    """Images to test on as they lie in their files, with their labels.

    Attributes:
        images: Encoded.
        labels: int64, ``(N,)``, indices into `classes`.
        classes: Label names.
        split: What the data set calls the split.
    """

    __test__ = False  # for pytest

    images: EncodedImages
    labels: Tensor
    classes: tuple[str, ...]
    split: str

    def __len__(self) -> int:
        return len(self.labels)


def encoded_test_rows(
    source: str, split: str | None = None, columns: Columns | None = None, brightness: Brightness | None = None
) -> TestRows:
    """The split that a model is tested on, or the one named, not decoded yet.

    Args:
        source: As for `load_splits`.
        split: Name of a split; the test split if None, else the validation split, else the only one.
        columns: Which columns, where several may be meant.
        brightness: What images of more than 8 bits are scaled by, their own if None.

    Raises:
        UserError: No such data set or split, no image or label column, labels outside their classes.
    """
    columns = columns or Columns()
    loaded = open_data_set(source, columns=columns)
    if split is not None and split not in loaded:
        raise UserError(f"{source} has no split {split!r}; {did_you_mean(split, loaded)}")
    name = split or test_split(loaded, source)
    labels, classes = read_labels(loaded[name], source, columns.label)
    return TestRows(EncodedImages.of(loaded[name], source, columns.image, brightness), labels, classes, name)
