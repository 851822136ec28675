"""Where images come from: a Hub dataset, a folder of parquet files or an image folder.

Reading goes through `datasets`. A split that fits into memory is decoded once into one uint8 tensor, so that an epoch
costs no Python work per image; a larger one stays on disk, and worker processes decode.
"""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import datasets
import torch
from PIL import Image
from torch import Tensor

from .._utils.progress import tracked
from ..errors import UserError
from .brightness import Brightness
from .columns import Columns, EncodedFile, image_column, read_labels
from .images import brightness_of_set, read_picture
from .opening import hidden_labels, open_data_set, training_roles
from .splits import OnDisk, spread
from .views import View

__all__ = [
    "EncodedImages",
    "ImageSplit",
    "Images",
    "StoredSplit",
    "decoded",
    "load_splits",
]

# A decoded split larger than this stays on disk: it would not fit beside a network on an ordinary machine.
MAX_BYTES = 16 * 2**30
PROBES = 1000  # images of a set that stand for all: for their bit depth, and in the hash of one on disk


@dataclass(frozen=True)
class ImageSplit(torch.utils.data.Dataset[tuple[Tensor, Tensor]]):
    """Images and labels in memory; a torch dataset that hands out a whole batch by one indexing operation.

    Attributes:
        images: uint8, ``(N, 3, H, W)``.
        labels: int64, ``(N,)``, indices into `classes`.
        classes: Label names.
        brightness: What images of more than 8 bits were scaled by.
    """

    images: Tensor
    labels: Tensor
    classes: tuple[str, ...]
    brightness: Brightness | None = None
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
        return replace(self, images=self.images[indices], labels=self.labels[indices])

    def sha256(self) -> str:
        """Hash of the decoded pixels and labels, the data's identity in results."""
        digest = hashlib.sha256(self.images.numpy().tobytes())
        digest.update(self.labels.numpy().tobytes())
        return digest.hexdigest()


@dataclass(frozen=True)
class EncodedImages:
    """Images of a split as they lie in their files.

    Attributes:
        rows: Encoded images.
        column: Name of the image column.
        source: Named in errors.
        brightness: What images of more than 8 bits are scaled by, see `images.brightness_of_set`.
    """

    rows: datasets.Dataset
    column: str
    source: str
    brightness: Brightness | None

    @classmethod
    def of(
        cls, rows: datasets.Dataset, source: str, column: str | None, brightness: Brightness | None = None
    ) -> "EncodedImages":
        """The images of a split, in the named or only column, with the given brightness or their own."""
        chosen, files = image_column(rows, source, column)
        images = cls(files, chosen, source, brightness)
        if brightness is None and len(rows):
            probes = (images.content(index) for index in spread(len(rows), PROBES))
            images = replace(images, brightness=brightness_of_set(probes))
        return images

    def __len__(self) -> int:
        return len(self.rows)

    def content(self, index: int, file: EncodedFile | None = None) -> Path | bytes:
        """File or content of one image, from its row if that is given; UserError if there is none."""
        file = file or self.rows[index][self.column]
        content = file and (file["bytes"] or file["path"])
        if not content:
            raise UserError(f"{self.source}: row {index} has no image; remove it.")
        return content if isinstance(content, bytes) else Path(content)

    def open(self, index: int, upright: bool = True, file: EncodedFile | None = None) -> Image.Image:
        """One image, decoded as `images.read_picture` does."""
        content = self.content(index, file)
        name = f"{self.source}: image {content if isinstance(content, Path) else f'number {index}'}"
        return read_picture(content, name, upright, self.brightness)

    def decode(self, index: int, view: View, file: EncodedFile | None = None) -> Tensor:
        """What a network sees of one image: uint8 ``(3, H, W)``."""
        return view(self.open(index, file=file), index)


@dataclass(frozen=True)
class StoredSplit(OnDisk, torch.utils.data.Dataset[tuple[Tensor, Tensor]]):
    """Images on disk, decoded when they are asked for; as `ImageSplit` in everything else.

    Attributes:
        encoded: The images.
        labels: int64, ``(N,)``, indices into `classes`.
        classes: Label names.
        view: What a network sees of them.
    """

    encoded: EncodedImages
    labels: Tensor
    classes: tuple[str, ...]
    view: View

    def __len__(self) -> int:
        return len(self.labels)

    def __getitems__(self, indices: Sequence[int]) -> tuple[Tensor, Tensor]:
        images = [self.encoded.decode(index, self.view) for index in indices]
        return torch.stack(images), self.labels[torch.as_tensor(indices)]

    def take(self, indices: Tensor) -> "StoredSplit":
        """The split of these rows only."""
        encoded = replace(self.encoded, rows=self.encoded.rows.select(indices.tolist()))
        return replace(self, encoded=encoded, labels=self.labels[indices])

    def sha256(self) -> str:
        """Hash of all labels and of a thousand images' files spread over the split: reading all would take hours."""
        digest = hashlib.sha256(self.labels.numpy().tobytes())
        for index in spread(len(self), PROBES):
            content = self.encoded.content(index)
            digest.update(content if isinstance(content, bytes) else content.read_bytes())
        return digest.hexdigest()


Images = ImageSplit | StoredSplit


def load_splits(
    source: str,
    view: View | tuple[int, int],
    test_view: View | tuple[int, int] | None = None,
    progress: bool = True,
    labelled: bool = True,
    columns: Columns | None = None,
) -> dict[str, Images]:
    """Read a labelled image data set, and decode it if it fits into memory.

    Args:
        source: Folder with parquet files named after their split (``train-*.parquet``), folder of images as
            ``split/class/image.png`` or ``class/image.png`` (see `folders.walk_images`) or with a ``metadata.csv``,
            folder that `datasets` saved, or Hub data set id (``uoft-cs/cifar10``).
        view: What a network sees of each image; (H, W) for `View.whole`. Images of which it sees something else in
            training stay in their files.
        test_view: The same for the splits that are not trained on; `view` if None.
        progress: Show a progress bar while decoding.
        labelled: Read labels; without them the images may lie in a folder as they are, and every label is 0.
        columns: Which columns, where several may be meant.

    Returns:
        ``"train"``; where there is a test split (or only a validation split), ``"test"``; and a validation split
        beside that, ``"validation"``; all with the classes of the training split. A test split whose labels are hidden
        counts as none.

    Raises:
        UserError: No such folder or data set, no image or label column, or several; no training split; one class only;
            classes of the test split that the training split lacks; unreadable images.
    """
    say = print if progress else None
    loaded = open_data_set(source, labelled, columns, say)
    roles = training_roles(loaded, source, hidden_labels(loaded) if labelled else (), say)
    columns = columns or Columns()
    images = EncodedImages.of(loaded["train"], source, columns.image)
    if images.brightness and say:
        say(f"{source}: images of more than 8 bits, taken to run from {images.brightness}")
    labels, classes = _labels(loaded["train"], source, columns, labelled)
    if labelled:
        _check_trainable(labels, classes, source, say)
    splits = {"train": decoded(images, labels, classes, view, progress)}
    for role, name in roles.items():
        if role != "train":
            rows, where = loaded[name], f"{source} {name}"
            images = EncodedImages.of(rows, where, columns.image, images.brightness)
            labels, _ = _labels(rows, where, columns, labelled, classes)
            splits[role] = decoded(images, labels, classes, test_view or view, progress)
    return splits


def _labels(
    rows: datasets.Dataset, source: str, columns: Columns, labelled: bool, known: tuple[str, ...] = ()
) -> tuple[Tensor, tuple[str, ...]]:
    """Labels and classes of a split, zeros and none without labels; `known` are the training split's classes."""
    if not labelled:
        return torch.zeros(len(rows), dtype=torch.int64), ()
    return read_labels(rows, source, columns.label, known)


def _check_trainable(labels: Tensor, classes: tuple[str, ...], source: str, say: Callable[[str], None] | None) -> None:
    """Refuse training images of one class; say which classes have none."""
    counts = torch.bincount(labels, minlength=len(classes))
    present = [name for name, count in zip(classes, counts.tolist(), strict=True) if count]
    if len(present) < 2:
        raise UserError(
            f"{source} has training images of {''.join(present) or 'no class'} only; give two classes or more."
        )
    missing = [name for name in classes if name not in present]
    if missing and say:
        say(f"{source}: no training image of {', '.join(missing[:10])}")


def decoded(
    encoded: EncodedImages, labels: Tensor, classes: tuple[str, ...], view: View | tuple[int, int], progress: bool
) -> Images:
    """A split, decoded if it fits into memory and training and evaluation prepare it alike."""
    view = view if isinstance(view, View) else View.whole(view)
    height, width = view.size
    if view.training is not None or len(encoded) * 3 * height * width > MAX_BYTES:
        return StoredSplit(encoded, labels, classes, view)
    images = torch.empty(len(encoded), 3, height, width, dtype=torch.uint8)
    # rows in their order, which is faster than by their number
    for index, row in enumerate(tracked(encoded.rows, f"decoding {len(encoded)} images", progress)):
        images[index] = encoded.decode(index, view, row[encoded.column])
    return ImageSplit(images, labels, classes, encoded.brightness)
