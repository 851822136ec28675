"""Folders of images and masks: ``images/NAME`` with ``masks/NAME``, in a split's folder or with splits inside."""

import unicodedata
from collections import Counter
from pathlib import Path

from ..errors import UserError
from .folders import SPLITS, images_below
from .images import image_files

__all__ = ["PairFiles", "mask_folder"]

PairFiles = list[tuple[Path, Path | None]]  # images, each with its mask
IMAGES, MASKS = "images", "masks"


def mask_folder(folder: Path, labelled: bool = True) -> dict[str, PairFiles] | None:
    """Image and mask files by split: ``SPLIT/images/**/NAME``, ``images/SPLIT/**/NAME`` or ``images/**/NAME``.

    Args:
        folder: What is walked. A mask has the path of its image below ``masks``, with any suffix.
        labelled: Masks are read; without, the images may lie in the folder as they are.

    Returns:
        None where there is no folder of images (or, without masks, no image).

    Raises:
        UserError: An image without mask or without a name of its own, two masks of one name, two folders for one split,
            no folder of masks or one without images.
    """
    if not labelled and (lone := image_files(folder)):
        return {"train": [(path, None) for path in lone]}
    splits = _splits(folder)
    if not splits:
        return None
    pairs: dict[str, PairFiles] = {}
    for name, (images, masks) in splits.items():
        if labelled and not masks.is_dir():
            raise UserError(f"{folder} has a folder of images and none of masks; put each mask into {MASKS}/NAME.png.")
        found = _by_name(images)
        if not found:
            raise UserError(f"{images} is empty.")
        if not labelled:
            pairs[name] = [(path, None) for path in found.values()]
            continue
        truth = _by_name(masks)
        lone_image = next((key for key in found if key not in truth), None)
        if lone_image is not None:
            raise UserError(f"{found[lone_image]} has no mask {masks.name}/{lone_image}.png.")
        pairs[name] = [(path, truth[key]) for key, path in found.items()]
    return pairs


def _splits(folder: Path) -> dict[str, tuple[Path, Path]]:
    """Split -> its folders of images and of masks."""
    images, masks = folder / IMAGES, folder / MASKS
    if not images.is_dir():
        places = [path.parent for path in sorted(folder.glob(f"*/{IMAGES}"))]
        return _named({path: (path / IMAGES, path / MASKS) for path in places}, folder)
    inside = [path for path in sorted(images.iterdir()) if path.is_dir()]
    if inside and all(path.name.casefold() in SPLITS for path in inside) and not image_files(images):
        return _named({path: (path, masks / path.name) for path in inside}, images)
    return {"train": (images, masks)}


def _named(places: dict[Path, tuple[Path, Path]], where: Path) -> dict[str, tuple[Path, Path]]:
    """Folders by the name of their split; refuses several folders for one split."""
    found: dict[str, tuple[Path, Path]] = {}
    for path, folders in places.items():
        name = SPLITS.get(path.name.casefold(), path.name)
        if name in found:
            raise UserError(f"{where} holds several folders for the {name} split, {path.name} among them: keep one.")
        found[name] = folders
    return found


def _by_name(folder: Path) -> dict[str, Path]:
    """Images below a folder by their relative path without suffix, in Unicode's composed form; each name once."""
    found: dict[str, Path] = {}
    for path in images_below(folder, Counter()):
        name = unicodedata.normalize("NFC", path.relative_to(folder).with_suffix("").as_posix())
        if name in found:
            raise UserError(f"{found[name]} and {path.name} have one name: keep one of them, or rename it.")
        found[name] = path
    return found
