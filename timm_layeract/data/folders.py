"""One walk over a folder of images in class folders: its splits, its classes, its files, and what is left out.

Nothing is guessed from a file's name. A folder's top level is either splits (every folder there is called train, test,
validation or alike) or classes; what lies below a class folder, however deep, is of that class.
"""

import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image, UnidentifiedImageError

from ..errors import UserError

__all__ = ["SPLITS", "ImageFolder", "images_below", "walk_images"]

# What people call a split's folder -> what we call the split.
SPLITS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("validation", "valid", "val", "dev"), "validation"),
    **dict.fromkeys(("test", "testing"), "test"),
}
_SYSTEM = ("thumbs.db", "desktop.ini", "__macosx")  # besides what starts with a dot


@dataclass
class ImageFolder:
    """What a walk found.

    Attributes:
        files: Split -> image files with the index of their class, in the order of the paths.
        classes: Names of the class folders, sorted; none where the images lie in no class folders.
        left_out: Reason -> how many files were passed over for it.
    """

    files: dict[str, list[tuple[Path, int]]]
    classes: tuple[str, ...]
    left_out: Counter[str] = field(default_factory=Counter)

    def describe(self) -> str:
        """One line for a person: splits with their counts, classes, what was left out."""
        counts = ", ".join(f"{split} {len(files):,}" for split, files in self.files.items())
        shown = ", ".join(self.classes[:10]) + (", ..." if len(self.classes) > 10 else "")
        classes = f" in {len(self.classes)} classes ({shown})" if self.classes else ""
        left = ", ".join(f"{count:,} {reason}" for reason, count in sorted(self.left_out.items()))
        return f"images: {counts}{classes}{f'; left out: {left}' if left else ''}"


def walk_images(folder: Path, labelled: bool = True) -> ImageFolder:
    """Find the images of a folder: ``SPLIT/CLASS/**/image`` or ``CLASS/**/image``, links followed.

    Args:
        folder: What is walked.
        labelled: The images lie in class folders; without, they may lie anywhere and all have the label 0.

    Raises:
        UserError: No image; a folder that may be read in two ways; a class without a training image, or with images for
            testing alone; a class folder none of whose files can be read.
    """
    left_out: Counter[str] = Counter()
    found = {split: list(images_below(path, left_out)) for split, path in _splits(folder, labelled).items()}
    if not any(found.values()):
        archives = [
            path.name for path in folder.iterdir() if path.suffix.lower() in (".zip", ".tar", ".gz", ".7z", ".rar")
        ]
        hint = f"; unpack {archives[0]}" if archives else f" (left out: {_words(left_out)})" if left_out else ""
        raise UserError(f"{folder} holds neither parquet files nor images{hint}.")
    if not labelled:
        return ImageFolder({split: [(path, 0) for path in paths] for split, paths in found.items()}, (), left_out)
    roots = _splits(folder, labelled)
    classes = {split: _by_class(roots[split], paths, left_out) for split, paths in found.items()}
    names = _class_names(folder, roots, classes)
    files = {
        split: [(path, names.index(name)) for name in names for path in by_class.get(name, [])]
        for split, by_class in classes.items()
    }
    return ImageFolder({split: each for split, each in files.items() if each}, names, left_out)


def _splits(folder: Path, labelled: bool) -> dict[str, Path]:
    """Split -> its folder; the whole folder as ``train`` if its top level is not split."""
    folders = {path.name: path for path in _folders(folder)}
    named = {name: SPLITS[name.casefold()] for name in folders if name.casefold() in SPLITS}
    if not named:
        return {"train": folder}
    others = [name for name in folders if name not in named and any(images_below(folders[name], Counter()))]
    holds_classes = {name: any(True for _ in _folders(folders[name])) for name in named}
    if others and len(named) == 1 and not any(holds_classes.values()):
        return {"train": folder}  # bus/, car/ and train/, each full of images: classes
    if others:
        raise UserError(
            f"{folder} may be read in two ways: {', '.join(sorted(named))} are names of splits, "
            f"{', '.join(sorted(others))} are not. Put all class folders into train/ (and test/), or rename what is a "
            f"class."
        )
    if labelled and len(named) > 1 and not any(holds_classes.values()):
        raise UserError(
            f"{folder} may be read in two ways: {' and '.join(sorted(named))} hold images and no class folders. If "
            f"they are the classes, put them into train/; if they are splits, put their images into class folders."
        )
    twice = [name for name, split in Counter(named.values()).items() if split > 1]
    if twice:
        several = ", ".join(sorted(name for name, split in named.items() if split == twice[0]))
        raise UserError(f"{folder} holds several folders for the {twice[0]} split, {several}: keep one.")
    return {
        split: folders[name]
        for name, split in sorted(named.items(), key=lambda item: list(SPLITS).index(item[0].casefold()))
    }


def _class_names(folder: Path, roots: dict[str, Path], classes: dict[str, dict[str, list[Path]]]) -> tuple[str, ...]:
    """Class names of all splits; refuses splits whose classes do not match."""
    first = "train" if "train" in classes else next(iter(classes))
    names = tuple(sorted(name for name, paths in classes[first].items() if paths))
    empty = sorted({path.name for path in _folders(roots[first])} - set(names))
    if empty:
        raise UserError(
            f"The class folder {roots[first] / empty[0]} holds no image that can be read; fill it or remove it."
        )
    if not names:
        raise UserError(f"{roots[first]} holds images, but no class folders: put them into CLASS/image.png.")
    for split, by_class in classes.items():
        unknown = sorted(name for name, paths in by_class.items() if paths and name not in names)
        if unknown:
            raise UserError(
                f"{folder}: the class {unknown[0]!r} is in {split} and not in {first}, which has "
                f"{', '.join(names[:10])}."
            )
    return names


def _by_class(root: Path, paths: list[Path], left_out: Counter[str]) -> dict[str, list[Path]]:
    """Class folder -> its images; those that lie beside the class folders are left out."""
    found: dict[str, list[Path]] = {}
    for path in paths:
        inside = path.relative_to(root).parts
        if len(inside) == 1:
            left_out["beside the class folders"] += 1
        else:
            found.setdefault(inside[0], []).append(path)
    return found


def _folders(folder: Path) -> Iterator[Path]:
    """Subfolders, including links to folders, without those of the operating system."""
    yield from (path for path in sorted(folder.iterdir()) if path.is_dir() and not _is_system(path.name))


def images_below(folder: Path, left_out: Counter[str]) -> Iterator[Path]:
    """Every image file below a folder, links followed, each folder once."""
    suffixes = {suffix for suffix, kind in Image.registered_extensions().items() if kind in Image.OPEN}
    seen: set[str] = set()
    for place, folders, files in os.walk(folder, followlinks=True):
        real = os.path.realpath(place)
        if real in seen:  # a link back
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(name for name in folders if not _is_system(name))
        for name in sorted(files):
            path = Path(place, name)
            if _is_system(name):
                continue
            if not path.exists():
                left_out["broken links"] += 1
            elif path.suffix.lower() in suffixes or _is_image(path):
                yield path
            else:
                left_out[f"no images ({path.suffix.lower() or 'no suffix'})"] += 1


def _is_image(path: Path) -> bool:
    """Whether Pillow recognises a file with an unknown suffix by its first bytes."""
    try:
        with Image.open(path):
            return True
    except (UnidentifiedImageError, OSError):
        return False


def _is_system(name: str) -> bool:
    return name.startswith(".") or name.casefold() in _SYSTEM


def _words(left_out: Counter[str]) -> str:
    return ", ".join(f"{count} {reason}" for reason, count in sorted(left_out.items()))
