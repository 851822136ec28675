"""Images with masks: a Hub data set, a folder of parquet files, or a folder of images and masks, each of its own size.

A split is held in memory, decoded once.
"""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import datasets
import torch
from torch import Tensor

from .._utils.progress import tracked
from ..errors import UserError
from .columns import Columns, choose_column
from .images import bits_of_set, image_files, read_image, read_mask
from .opening import open_data_set, split_roles
from .sources import MAX_BYTES

__all__ = ["MaskSplit", "load_mask_splits"]

File = tuple[Path | bytes, str]  # an encoded image, and what errors call it
Pair = tuple[File, File | None]  # an image and its mask
MASK_WORDS = ("mask", "label", "annotation", "segmentation")  # in the name of a column of masks


@dataclass(frozen=True)
class MaskSplit(torch.utils.data.Dataset[tuple[Tensor, Tensor]]):
    """Images and their masks in memory; a torch dataset that hands out lists, as sizes differ.

    Attributes:
        images: uint8, each ``(3, H, W)``.
        masks: uint8 of zeros and ones, each ``(H, W)`` of its image.
        classes: Name of the foreground.
    """

    workers: ClassVar[int] = 0  # data in memory is read fastest by the process that needs it

    images: tuple[Tensor, ...]
    masks: tuple[Tensor, ...]
    classes: tuple[str, ...] = ("foreground",)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return self.images[index], self.masks[index]

    def __getitems__(self, indices: Sequence[int]) -> tuple[list[Tensor], list[Tensor]]:
        return [self.images[index] for index in indices], [self.masks[index] for index in indices]

    def take(self, indices: Tensor) -> "MaskSplit":
        """The split of these rows only."""
        images, masks = self.__getitems__(indices.tolist())
        return MaskSplit(tuple(images), tuple(masks), self.classes)

    def sha256(self) -> str:
        """Hash of the decoded pixels and masks with their sizes, the data's identity in results."""
        digest = hashlib.sha256()
        for tensor in (*self.images, *self.masks):
            digest.update(str(tuple(tensor.shape)).encode())
            digest.update(tensor.numpy().tobytes())
        return digest.hexdigest()


def load_mask_splits(
    source: str, progress: bool = True, labelled: bool = True, columns: Columns | None = None
) -> dict[str, MaskSplit]:
    """Read a data set of images with binary masks and decode it.

    Args:
        source: Folder of ``images/NAME.png`` with ``masks/NAME.png`` (any suffix, the same stem), or such folders
            named train and test; folder of parquet files named after their split; or Hub data set id. Of a data set
            the mask is the image column called mask, label, annotation or segmentation.
        progress: Show a progress bar while decoding.
        labelled: Read masks; without them the images may lie in a folder as they are, and every mask is empty.
        columns: Which columns of a data set, where several may be meant; the label is the mask.

    Returns:
        ``"train"``; where there is a test split (or only a validation split), ``"test"``; and a validation split
        beside that, ``"validation"``.

    Raises:
        UserError: No such folder or data set, no training split, an image without mask, a mask of another size or
            with more than two values, files that cannot be read.
    """
    folder = Path(source)
    pairs = _folder_pairs(folder, labelled) if folder.is_dir() else None
    if pairs is None:
        loaded, chosen = open_data_set(source, labelled=False), columns or Columns()
        pairs = {name: list(_pairs(split, f"{source} {name}", labelled, chosen)) for name, split in loaded.items()}
    if "train" not in pairs:
        raise UserError(f"{source} has no 'train' split, only {', '.join(pairs)}; name the training files train*.")
    bits = bits_of_set(image for (image, _), _ in pairs["train"])
    return {name: _decode(pairs[split], source, progress, bits) for name, split in split_roles(pairs).items()}


def _folder_pairs(folder: Path, labelled: bool) -> dict[str, list[Pair]] | None:
    """Image and mask files by split; None where the folder has no ``images`` folder (or, without masks, no images)."""
    if not labelled and (lone_images := image_files(folder)):
        return {"train": [((path, str(path)), None) for path in lone_images]}
    splits = {"train": folder} if (folder / "images").is_dir() else {}
    splits.update({path.parent.name: path.parent for path in sorted(folder.glob("*/images"))})
    if not splits:
        return None
    pairs: dict[str, list[Pair]] = {}
    for name, split in splits.items():
        if not labelled:
            pairs[name] = [((path, str(path)), None) for path in image_files(split / "images")]
            continue
        if not (split / "masks").is_dir():
            raise UserError(f"{split} has a folder of images and none of masks; put each mask into masks/NAME.png.")
        masks = {path.stem: path for path in image_files(split / "masks")}
        images = image_files(split / "images")
        lone = next((path for path in images if path.stem not in masks), None)
        if lone or not images:
            raise UserError(f"{lone} has no mask masks/{lone.stem}.png." if lone else f"{split / 'images'} is empty.")
        pairs[name] = [((path, str(path)), (masks[path.stem], str(masks[path.stem]))) for path in images]
    return pairs


def _pairs(split: datasets.Dataset, where: str, labelled: bool, named: Columns) -> Iterable[Pair]:
    """Encoded images and masks of a data set."""
    columns = [name for name, feature in split.features.items() if isinstance(feature, datasets.Image)]
    masks = [name for name in columns if any(word in name.lower() for word in MASK_WORDS)]
    images = [name for name in columns if name not in masks]
    if not images or (labelled and not masks):
        raise UserError(f"{where} needs an image column and one called mask; its image columns are {columns}.")
    chosen = [choose_column(images, split, where, "image", named.image)]
    if labelled:
        chosen.append(choose_column(masks, split, where, "label", named.label))
    files = split.select_columns(chosen)
    for column in chosen:
        files = files.cast_column(column, datasets.Image(decode=False))
    for index, row in enumerate(files):
        names = (f"{where} number {index}", f"of {where} number {index}")
        image, *mask = (
            (row[column]["bytes"] or Path(row[column]["path"]), name)
            for column, name in zip(chosen, names, strict=False)
        )
        yield image, mask[0] if mask else None


def _decode(pairs: Sequence[Pair], source: str, progress: bool, bits: int | None) -> MaskSplit:
    images, masks, size = [], [], 0
    for image_file, mask_file in tracked(pairs, f"decoding {len(pairs)} images", progress):
        image = read_image(*image_file, bits)
        mask = read_mask(*mask_file) if mask_file else torch.zeros(image.shape[-2:], dtype=torch.uint8)
        if mask_file and image.shape[-2:] != mask.shape:
            raise UserError(
                f"Mask {mask_file[1]} has {mask.shape[0]}x{mask.shape[1]} pixels, its image "
                f"{image.shape[1]}x{image.shape[2]}."
            )
        size += image.numel() + mask.numel()
        if size > MAX_BYTES:
            raise UserError(f"{source} decodes to more than the {MAX_BYTES / 2**30:.0f} GiB that are held in memory.")
        images.append(image)
        masks.append(mask)
    return MaskSplit(tuple(images), tuple(masks))
