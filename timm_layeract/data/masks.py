"""Images with masks: a Hub data set, a folder of parquet files, or a folder of images and masks, each of its own size.

A split that fits into memory is held there, decoded once; a larger one stays on disk, and worker processes decode.
"""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

import datasets
import torch
from torch import Tensor

from .._utils.progress import tracked
from ..errors import UserError
from .brightness import Brightness
from .columns import Columns, EncodedFile, choose_column, encoded_columns
from .images import brightness_of_set, image_size, read_image
from .mask_folders import PairFiles, mask_folder
from .mask_values import BINARY, Labelling, find_labelling, read_class_names, read_values
from .opening import open_data_set, training_roles
from .sources import MAX_BYTES, PROBES
from .splits import OnDisk, spread

__all__ = ["MaskSplit", "Masks", "StoredMasks", "load_mask_splits"]

MASK_WORDS = ("mask", "label", "annotation", "segmentation")  # in the name of a column of masks
IMAGE, MASK = "image", "mask"  # columns of what is read of a folder


@dataclass(frozen=True)
class MaskSplit(torch.utils.data.Dataset[tuple[Tensor, Tensor]]):
    """Images and their masks in memory; a torch dataset that hands out lists, as sizes differ.

    Attributes:
        images: uint8, each ``(3, H, W)``.
        masks: uint8, each ``(H, W)`` of its image: zeros and ones, or the class of each pixel and 255 for void.
        classes: Names of the classes; the foreground's alone where there is one; none of masks that were not read.
        brightness: What images of more than 8 bits were scaled by.
    """

    workers: ClassVar[int] = 0  # data in memory is read fastest by the process that needs it

    images: tuple[Tensor, ...]
    masks: tuple[Tensor, ...]
    classes: tuple[str, ...] = ("foreground",)
    brightness: Brightness | None = None

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return self.images[index], self.masks[index]

    def __getitems__(self, indices: Sequence[int]) -> tuple[list[Tensor], list[Tensor]]:
        return [self.images[index] for index in indices], [self.masks[index] for index in indices]

    def take(self, indices: Tensor) -> "MaskSplit":
        """The split of these rows only."""
        images, masks = self.__getitems__(indices.tolist())
        return replace(self, images=tuple(images), masks=tuple(masks))

    def sha256(self) -> str:
        """Hash of the decoded pixels and masks with their sizes, the data's identity in results."""
        digest = hashlib.sha256()
        for tensor in (*self.images, *self.masks):
            digest.update(str(tuple(tensor.shape)).encode())
            digest.update(tensor.numpy().tobytes())
        return digest.hexdigest()


@dataclass(frozen=True)
class EncodedMasks:
    """Images and masks of a split as they lie in their files.

    Attributes:
        rows: Encoded images and masks.
        columns: Names of the image column and, where masks are read, of theirs.
        source: Named in errors.
        brightness: What images of more than 8 bits are scaled by, see `images.brightness_of_set`.
        labelling: What the masks' values mean.
    """

    rows: datasets.Dataset
    columns: tuple[str, ...]
    source: str
    brightness: Brightness | None = None
    labelling: Labelling = BINARY

    def __len__(self) -> int:
        return len(self.rows)

    def content(self, row: Mapping[str, EncodedFile | None], index: int, which: int = 0) -> tuple[Path | bytes, str]:
        """File or content of a row's image (0) or mask (1), and what errors call it."""
        file = row[self.columns[which]]
        content = file and (file["bytes"] or file["path"])
        if not content:
            raise UserError(f"{self.source}: row {index} has no {(IMAGE, MASK)[which]}; remove it.")
        if isinstance(content, bytes):
            return content, f"{'of ' * which}{self.source} number {index}"
        return Path(content), content

    def contents(self, which: int, most: int | None = None) -> Iterator[tuple[Path | bytes, str]]:
        """`content` of all rows, or of at most so many, evenly spaced."""
        for index in spread(len(self), most or len(self) or 1):
            yield self.content(self.rows[index], index, which)

    def decode(self, row: Mapping[str, EncodedFile | None], index: int) -> tuple[Tensor, Tensor]:
        """A row's image, uint8 ``(3, H, W)``, and mask, uint8 ``(H, W)``, empty where masks are not read."""
        image = read_image(*self.content(row, index), self.brightness)
        if len(self.columns) == 1:
            return image, torch.zeros(image.shape[-2:], dtype=torch.uint8)
        content, name = self.content(row, index, 1)
        mask = self.labelling.apply(read_values(content, name), name)
        if image.shape[-2:] != mask.shape:
            raise UserError(
                f"Mask {name} has {mask.shape[0]}x{mask.shape[1]} pixels, its image {image.shape[1]}x{image.shape[2]}."
            )
        return image, mask

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes, none where masks are not read."""
        return self.labelling.names if len(self.columns) > 1 else ()


@dataclass(frozen=True)
class StoredMasks(OnDisk, torch.utils.data.Dataset[tuple[Tensor, Tensor]]):
    """Images and masks on disk, decoded when they are asked for; as `MaskSplit` in everything else."""

    encoded: EncodedMasks

    def __len__(self) -> int:
        return len(self.encoded)

    def __getitems__(self, indices: Sequence[int]) -> tuple[list[Tensor], list[Tensor]]:
        pairs = [self.encoded.decode(self.encoded.rows[index], index) for index in indices]
        return [image for image, _ in pairs], [mask for _, mask in pairs]

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes."""
        return self.encoded.classes

    def take(self, indices: Tensor) -> "StoredMasks":
        """The split of these rows only."""
        return StoredMasks(replace(self.encoded, rows=self.encoded.rows.select(indices.tolist())))

    def sha256(self) -> str:
        """Hash of a thousand images' and masks' files spread over the split: reading all would take hours."""
        digest = hashlib.sha256()
        for which in range(len(self.encoded.columns)):
            for content, _ in self.encoded.contents(which, PROBES):
                digest.update(content if isinstance(content, bytes) else content.read_bytes())
        return digest.hexdigest()


Masks = MaskSplit | StoredMasks


def load_mask_splits(
    source: str,
    progress: bool = True,
    labelled: bool = True,
    columns: Columns | None = None,
    meaning: str | None = None,
    names: Sequence[str] | None = None,
) -> dict[str, Masks]:
    """Read a data set of images with masks, and decode it if it fits into memory.

    Args:
        source: Folder of ``images/NAME.png`` with ``masks/NAME.png`` (see `mask_folders.mask_folder`), of which a file
            classes.txt may name the classes; folder of parquet files named after their split; or Hub data set id. Of a
            data set the mask is the image column called mask, label, annotation or segmentation.
        progress: Show a progress bar while decoding.
        labelled: Read masks; without them the images may lie in a folder as they are, and every mask is empty.
        columns: Which columns of a data set, where several may be meant; the label is the mask.
        meaning: What the masks' values mean, as for `mask_values.find_labelling`.
        names: Class names.

    Returns:
        ``"train"``; where there is a test split (or only a validation split), ``"test"``; and a validation split
        beside that, ``"validation"``; all with the classes of the training split.

    Raises:
        UserError: No such folder or data set, no training split, an image without mask, a mask of another size or
            with values that may be meant in several ways, files that cannot be read.
    """
    folder = Path(source)
    files = mask_folder(folder, labelled) if folder.is_dir() else None
    if files is not None:
        encoded = {name: _of_files(pairs, source) for name, pairs in files.items()}
    else:
        loaded, chosen = open_data_set(source, labelled=False), columns or Columns()
        encoded = {name: _of_rows(rows, f"{source} {name}", labelled, chosen) for name, rows in loaded.items()}
    roles = training_roles(encoded, source, report=print if progress else None)
    train = encoded["train"]
    brightness = brightness_of_set(content for content, _ in train.contents(0, PROBES))
    large = {name: _is_large(encoded[name]) for name in roles.values()}
    labelling = BINARY
    if labelled:
        known = read_class_names(folder, names)
        probes = train.contents(1, PROBES if large["train"] else None)
        labelling = find_labelling(((read_values(*file), file[1]) for file in probes), source, meaning, known)
    return {
        role: _split(replace(encoded[name], brightness=brightness, labelling=labelling), large[name], progress)
        for role, name in roles.items()
    }


def _of_files(pairs: PairFiles, source: str) -> EncodedMasks:
    """The images and masks of a folder."""
    columns = {IMAGE: [str(image) for image, _ in pairs]}
    if pairs and pairs[0][1] is not None:
        columns[MASK] = [str(mask) for _, mask in pairs]
    features = datasets.Features(dict.fromkeys(columns, datasets.Image(decode=False)))
    return EncodedMasks(datasets.Dataset.from_dict(columns, features=features), tuple(columns), source)


def _of_rows(rows: datasets.Dataset, where: str, labelled: bool, named: Columns) -> EncodedMasks:
    """The images and masks of a data set."""
    columns = encoded_columns(rows)
    masks = [name for name in columns if any(word in name.lower() for word in MASK_WORDS) and name != named.image]
    images = [name for name in columns if name not in masks and name != named.label]
    if not (images or named.image) or (labelled and not (masks or named.label)):
        raise UserError(
            f"{where} needs an image column and one called mask (in a folder, images/NAME and masks/NAME); its image "
            f"columns are {columns}."
        )
    chosen = [choose_column(images, rows, where, "image", named.image)]
    if labelled:
        chosen.append(choose_column(masks, rows, where, "label", named.label))
    files = rows.select_columns(chosen)
    for column in chosen:
        files = files.cast_column(column, datasets.Image(decode=False))
    return EncodedMasks(files, tuple(chosen), where)


def _is_large(encoded: EncodedMasks) -> bool:
    """Whether a decoded split would not fit into memory, estimated from some of its images."""
    if not len(encoded):
        return False
    sizes = [image_size(*file) for file in encoded.contents(0, PROBES)]
    return sum(4 * width * height for width, height in sizes) / len(sizes) * len(encoded) > MAX_BYTES


def _split(encoded: EncodedMasks, large: bool, progress: bool) -> Masks:
    """A split, decoded if it fits into memory."""
    if large:
        return StoredMasks(encoded)
    images, masks, size = [], [], 0
    for index, row in enumerate(tracked(encoded.rows, f"decoding {len(encoded)} images", progress)):
        image, mask = encoded.decode(row, index)
        size += image.numel() + mask.numel()
        if size > MAX_BYTES:
            return StoredMasks(encoded)
        images.append(image)
        masks.append(mask)
    return MaskSplit(tuple(images), tuple(masks), encoded.classes, encoded.brightness)
