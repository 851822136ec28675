"""Folders as people have them, and what is read of each: the cases of `test_folders` and of docs/data.md."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

__all__ = ["CASES", "Case"]


def image(path: Path, value: int = 120) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((16, 16, 3), value, np.uint8)).save(path)


def fill(root: Path, *folders: str, count: int = 4, suffix: str = ".png") -> None:
    for folder in folders:
        for number in range(count):
            image(root / folder / f"{number}{suffix}")


@dataclass(frozen=True)
class Case:
    """A folder, and what is read of it.

    Attributes:
        lies: What lies in it, in words.
        make: Makes it.
        read: Split -> its number of images, and the classes; or what the refusal says.
        classes: Names of the classes, where it is read.
        left_out: Reason -> files passed over.
    """

    lies: str
    make: Callable[[Path], None]
    read: dict[str, int] | str
    classes: tuple[str, ...] = ("a", "b")
    left_out: tuple[str, ...] = ()


def _patients(root: Path) -> None:
    fill(root, "benign/p1", "benign/p2", "malignant/p1")


def _stray(root: Path) -> None:
    fill(root, "a", "b")
    image(root / "overview.png")


def _links(root: Path) -> None:
    fill(root / "store", "b")
    fill(root / "data", "a")
    (root / "data" / "b").symlink_to(root / "store" / "b")
    (root / "data" / "a" / "link.png").symlink_to(root / "store" / "b" / "0.png")
    (root / "data" / "a" / "gone.png").symlink_to(root / "nowhere.png")
    (root / "data" / "a" / "loop").symlink_to(root / "data" / "a")


def _names(root: Path) -> None:
    for name in ("train_1.png", "test-2.png", "3.JPG", "4.avif", "5"):
        for folder in ("a", "b"):
            path = root / folder / name
            image(path.with_suffix(".png") if path.suffix in (".avif", "") else path)
            if path.suffix in (".avif", ""):
                if path.suffix and ".avif" in Image.registered_extensions():
                    Image.open(path.with_suffix(".png")).save(path)
                    path.with_suffix(".png").unlink()
                else:
                    path.with_suffix(".png").rename(path)


def _rubbish(root: Path) -> None:
    fill(root, "a", "b")
    for name in ("Thumbs.db", "._0.png", ".DS_Store"):
        (root / "a" / name).write_bytes(b"\0\5\26\7")
    (root / "a" / "notes.txt").write_text("a note")
    (root / "old.zip").write_bytes(b"PK\3\4")
    (root / "__MACOSX").mkdir()
    (root / "__MACOSX" / "0.png").write_bytes(b"\0")


def _archive(root: Path) -> None:
    (root / "images.zip").write_bytes(b"PK\3\4")


def _unreadable_class(root: Path) -> None:
    fill(root, "a", "b")
    (root / "c").mkdir()
    (root / "c" / "1.nef").write_bytes(b"a camera's own format")


def _metadata(
    root: Path, text: str = "file_name,label\n0.png,b\n1.png,a\n2.png,b\n", name: str = "metadata.csv"
) -> None:
    fill(root, ".", count=3)
    (root / name).write_text(text, encoding="utf-8-sig")


CASES = {
    "class folders": Case("`CLASS/*.png`", lambda root: fill(root, "a", "b"), {"train": 8}),
    "splits": Case(
        "`train/CLASS/*.png`, `test/CLASS/*.png`",
        lambda root: fill(root, "train/a", "train/b", "test/a", "test/b"),
        {"train": 8, "test": 8},
    ),
    "capitals": Case(
        "`Train/`, `VAL/`, `Test/` with class folders",
        lambda root: fill(root, "Train/a", "Train/b", "VAL/a", "VAL/b", "Test/a", "Test/b"),
        {"train": 8, "validation": 8, "test": 8},
    ),
    "test alone": Case("`test/CLASS/*.png` alone", lambda root: fill(root, "test/a", "test/b"), {"test": 8}),
    "class called train": Case(
        "`bus/`, `car/` and `train/`, full of images",
        lambda root: fill(root, "bus", "car", "train"),
        {"train": 12},
        ("bus", "car", "train"),
    ),
    "class called test in splits": Case(
        "`train/{control,test}/`, `test/{control,test}/`",
        lambda root: fill(root, "train/control", "train/test", "test/control", "test/test"),
        {"train": 8, "test": 8},
        ("control", "test"),
    ),
    "train and test of images": Case(
        "`train/*.png` and `test/*.png`, no class folders",
        lambda root: fill(root, "train", "test"),
        "may be read in two ways: test and train hold images and no class folders",
    ),
    "splits beside others": Case(
        "`train/`, `test/` with class folders, and `extra/*.png`",
        lambda root: fill(root, "train/a", "train/b", "test/a", "test/b", "extra"),
        "may be read in two ways: test, train are names of splits, extra are not",
    ),
    "two validation folders": Case(
        "`train/`, `val/` and `validation/` with class folders",
        lambda root: fill(root, "train/a", "train/b", "val/a", "validation/a"),
        "several folders for the validation split",
    ),
    "patients": Case(
        "`CLASS/PATIENT/*.png`", _patients, {"train": 12}, ("benign", "malignant")
    ),
    "stray image": Case(
        "class folders, and one image beside them", _stray, {"train": 8}, left_out=("beside the class folders",)
    ),
    "file names": Case("files called `train_1.png`, `test-2.png`, `3.JPG`, `4.avif`, `5`", _names, {"train": 10}),
    "links": Case(
        "links to a class folder, to a file, to nowhere, and back", _links, {"train": 9}, left_out=("broken links",)
    ),
    "rubbish": Case(
        "`Thumbs.db`, `._0.png`, `__MACOSX/`, a `.txt` and a `.zip` among them",
        _rubbish,
        {"train": 8},
        left_out=("no images (.txt)", "no images (.zip)"),
    ),
    "archive": Case("a `.zip` alone", _archive, "holds neither parquet files nor images; unpack images.zip"),
    "class of unknown files": Case(
        "a class folder of files that cannot be read", _unreadable_class, "c holds no image that can be read"
    ),
    "empty class": Case(
        "an empty class folder",
        lambda root: (fill(root, "a", "b"), (root / "c").mkdir())[0],
        "c holds no image that can be read; fill it or remove it",
    ),
    "class in test only": Case(
        "`test/c/`, and no `train/c/`",
        lambda root: fill(root, "train/a", "train/b", "test/a", "test/c"),
        "the class 'c' is in test and not in train, which has a, b",
    ),
    "other case in test": Case(
        "`train/truck/` and `test/Truck/`",
        lambda root: fill(root, "train/car", "train/truck", "test/car", "test/Truck"),
        "the class 'Truck' is in test and not in train",
    ),
    "one class": Case("one class folder", lambda root: fill(root, "a"), "training images of a only"),
    "no class folders": Case(
        "images and no class folders", lambda root: fill(root, "."), "holds images, but no class folders"
    ),
    "metadata.csv": Case("images, and `metadata.csv` with `file_name,label`", _metadata, {"train": 3}),
    "semicolons": Case(
        "the same from a spreadsheet, with semicolons",
        lambda root: _metadata(root, "file_name;label\n0.png;b\n1.png;a\n2.png;b\n"),
        {"train": 3},
    ),
    "metadata.jsonl": Case(
        "`metadata.jsonl`",
        lambda root: _metadata(
            root, '{"file_name": "0.png", "label": "b"}\n{"file_name": "1.png", "label": "a"}\n', "metadata.jsonl"
        ),
        {"train": 2},
    ),
    "two label columns": Case(
        "`metadata.csv` with `file_name,scanner,diagnosis`",
        lambda root: _metadata(root, "file_name,scanner,diagnosis\n0.png,x,a\n1.png,y,b\n"),
        "several columns that may be labels, scanner, diagnosis: name one by --label",
    ),
    "row without label": Case(
        "a row of `metadata.csv` without label",
        lambda root: _metadata(root, "file_name,label\n0.png,a\n1.png,\n"),
        "row 2: 1.png has no label",
    ),
    "row without file": Case(
        "a row of `metadata.csv` whose file is not there",
        lambda root: _metadata(root, "file_name,label\n0.png,a\n9.png,b\n"),
        "row 2: there is no file",
    ),
}  # fmt: skip
