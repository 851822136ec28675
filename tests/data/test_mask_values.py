"""What the values of masks mean: foreground or classes, each as its owner says, or one line that asks."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from timm_layeract.data.mask_values import VOID, read_class_names, read_values
from timm_layeract.data.masks import load_mask_splits
from timm_layeract.errors import UserError

Y, X = np.mgrid[:24, :30]
DISC = ((Y - 12) ** 2 + (X - 12) ** 2 < 60).astype(np.uint8)
OTHER = ((Y - 12) ** 2 + (X - 25) ** 2 < 12).astype(np.uint8)
FULL = np.full_like(DISC, 255)
VOC_PALETTE = [0, 0, 0, 128, 0, 0, 0, 128, 0, *[0] * 759]


def palette(values: np.ndarray) -> Image.Image:
    picture = Image.fromarray(values)
    picture.putpalette(VOC_PALETTE)
    return picture


KINDS: dict[str, tuple[Callable[[], Image.Image], np.ndarray]] = {
    "0 and 1": (lambda: Image.fromarray(DISC), DISC),
    "bilevel": (lambda: Image.fromarray(DISC > 0), DISC),
    "16 bits": (lambda: Image.fromarray(DISC * np.uint16(700)), DISC * np.uint16(700)),
    "float": (lambda: Image.fromarray(DISC.astype(np.float32)), DISC),
    "grey in RGB": (lambda: Image.fromarray(np.dstack([DISC] * 3)), DISC),
    "palette": (lambda: palette(DISC + 2 * OTHER), DISC + 2 * OTHER),
    "grey and alpha": (lambda: Image.fromarray(np.dstack([DISC, FULL]), "LA"), DISC),
    "opaque RGBA": (lambda: Image.fromarray(np.dstack([DISC, DISC, DISC, FULL])), DISC),
    "in alpha, black": (lambda: Image.fromarray(np.dstack([0 * DISC] * 3 + [255 * DISC])), 255 * DISC),
    "in alpha, white": (lambda: Image.fromarray(np.dstack([FULL] * 3 + [255 * DISC])), 255 * DISC),
    "nothing in alpha": (lambda: Image.fromarray(np.dstack([FULL] * 3 + [0 * DISC])), 0 * DISC),
    "grey, transparent outside": (lambda: Image.fromarray(np.dstack([7 * DISC] * 3 + [255 * DISC])), 7 * DISC),
}


@pytest.mark.filterwarnings("ignore:'mode' parameter is deprecated")
@pytest.mark.parametrize("name", KINDS)
def test_values(tmp_path: Path, name: str) -> None:
    make, truth = KINDS[name]
    make().save(tmp_path / "mask.tif" if name == "float" else tmp_path / "mask.png")
    np.testing.assert_array_equal(read_values(next(tmp_path.iterdir())), truth)


def colour() -> Image.Image:
    return Image.fromarray(np.dstack([255 * DISC, 0 * DISC, 0 * DISC]))


def two_channels() -> Image.Image:
    return Image.fromarray(np.dstack([DISC] * 3 + [255 * OTHER]))


@pytest.mark.parametrize(
    ("file", "make", "says"),
    [
        ("mask.png", colour, "in colour"),
        ("mask.png", two_channels, "one thing in its colours and another in its alpha"),
        ("mask.tif", lambda: Image.fromarray(DISC / np.float32(3)), "fractions"),
        ("mask.tif", lambda: Image.fromarray(-DISC.astype(np.int32)), "holds -1"),
        ("mask.jpg", lambda: Image.fromarray(DISC * np.uint8(255)), "a JPEG, which blurs"),
    ],
)
def test_what_is_no_mask(tmp_path: Path, file: str, make: Callable[[], Image.Image], says: str) -> None:
    make().save(tmp_path / file)
    with pytest.raises(UserError, match=says) as refused:
        read_values(tmp_path / file)
    assert file in str(refused.value)


def test_pages_of_masks_are_refused(tmp_path: Path) -> None:
    first, second = Image.fromarray(0 * DISC), Image.fromarray(DISC)
    first.save(tmp_path / "mask.tif", save_all=True, append_images=[second])
    with pytest.raises(UserError, match=r"mask\.tif holds 2 pages"):
        read_values(tmp_path / "mask.tif")


def data(root: Path, *masks: np.ndarray) -> str:
    for kind in ("images", "masks"):
        (root / kind).mkdir(parents=True, exist_ok=True)
    for index, mask in enumerate(masks):
        Image.fromarray(np.dstack([DISC * 200] * 3)).save(root / "images" / f"{index}.png")
        Image.fromarray(mask).save(root / "masks" / f"{index}.png")
    return str(root)


BOTH = DISC * (OTHER == 0) + 2 * OTHER
VOIDED = np.where(OTHER > DISC, np.uint8(255), DISC)


@pytest.mark.parametrize(
    ("masks", "options", "expected", "classes"),
    [
        ([DISC, 0 * DISC], {}, [DISC, 0 * DISC], ("foreground",)),
        ([255 * DISC, 255 * OTHER], {}, [DISC, OTHER], ("foreground",)),
        ([DISC, 2 * OTHER], {"meaning": "binary"}, [DISC, OTHER], ("foreground",)),
        ([DISC, 2 * OTHER], {"meaning": "classes"}, [DISC, 2 * OTHER], ("0", "1", "2")),
        ([BOTH * np.uint16(300)], {"meaning": "binary"}, [BOTH > 0], ("foreground",)),  # instances
        ([DISC, BOTH], {"names": ["back", "disc", "other"]}, [DISC, BOTH], ("back", "disc", "other")),
        (
            [VOIDED, DISC],
            {"meaning": "classes"},
            [VOIDED, DISC],
            ("0", "1"),
        ),
        ([DISC + 1], {"meaning": "classes"}, [DISC + 1], ("0", "1", "2")),
    ],
)
def test_what_is_read(tmp_path: Path, masks: list, options: dict, expected: list, classes: tuple) -> None:
    split = load_mask_splits(data(tmp_path, *masks), progress=False, **options)["train"]
    assert split.classes == classes
    for (_, found), wanted in zip(split, expected, strict=True):
        np.testing.assert_array_equal(found.numpy(), wanted)


@pytest.mark.parametrize(
    ("masks", "options", "says"),
    [
        ([DISC, 2 * OTHER], {}, r"values 0, 1, 2: say by --masks classes .*\(1 is in .*0\.png, 2 in .*1\.png\)"),
        ([DISC, 255 * DISC], {}, "--masks binary"),
        ([BOTH], {}, "values 0, 1, 2: say by --masks classes"),
        ([0 * DISC, 0 * DISC], {}, "are empty: no training image has any foreground"),
        ([0 * DISC], {"meaning": "classes"}, "are empty"),
        ([0 * DISC + 1], {}, "there is no background"),
        ([0 * DISC + 3], {"meaning": "classes"}, "one class only, 3"),
        ([BOTH * np.uint16(200)], {"meaning": "classes"}, r"0\.png holds the value 400; classes run from 0 to 254"),
        ([BOTH], {"names": ["back", "disc"]}, r"0\.png holds the value 2; 2 class names are given"),
        ([DISC], {"names": ["back", "disc"], "meaning": "binary"}, "class names are for masks of classes"),
        ([DISC], {"names": ["disc"]}, "of 2 to 255 classes, the background among them; got 1"),
        ([DISC], {"names": ["a", "a"]}, "Two classes are called 'a'"),
    ],
)
def test_what_is_refused(tmp_path: Path, masks: list, options: dict, says: str) -> None:
    with pytest.raises(UserError, match=says) as refused:
        load_mask_splits(data(tmp_path, *masks), progress=False, **options)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("meaning", "says"), [(None, "values 0, 2, and those of the training images 0 and 1"), ("classes", "the value 2")]
)
def test_the_test_images_have_the_classes_of_the_training_images(tmp_path: Path, meaning: str, says: str) -> None:
    data(tmp_path / "train", DISC)
    data(tmp_path / "test", DISC, 2 * DISC)
    with pytest.raises(UserError, match=rf"test/masks/1\.png holds.*{says}"):
        load_mask_splits(str(tmp_path), progress=False, meaning=meaning)
    data(tmp_path / "test", DISC, 0 * DISC)
    assert load_mask_splits(str(tmp_path), progress=False)["test"].masks[1].max() == 0


def test_class_names_of_a_file(tmp_path: Path) -> None:
    source = data(tmp_path, BOTH)
    (tmp_path / "classes.txt").write_bytes("back\r\ndisc\r\nä\r\n".encode("utf-8-sig"))
    assert load_mask_splits(source, progress=False)["train"].classes == ("back", "disc", "ä")
    assert read_class_names(tmp_path, ["back", "disc", "ä"]) == ("back", "disc", "ä")
    with pytest.raises(UserError, match="names the classes back, disc, ä, and disc, back, ä are expected"):
        read_class_names(tmp_path, ["disc", "back", "ä"])


def test_void_is_no_class() -> None:
    assert VOID == 255
