"""One reader of images: brightness of any depth, orientation, pages, what other programs leave behind."""

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from timm_layeract.data.brightness import to_8_bits
from timm_layeract.data.images import image_files, read_image, read_picture
from timm_layeract.data.sources import load_splits
from timm_layeract.errors import UserError

GREY = np.random.default_rng(0).integers(0, 200, (40, 50), dtype=np.uint8)


def png_of_16_bits(pixels: np.ndarray) -> bytes:
    """A PNG in colour with 16 bits a channel, which Pillow does not write."""
    height, width, _ = pixels.shape
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in pixels)

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    head = struct.pack(">IIBBBBB", width, height, 16, 2, 0, 0, 0)
    body = chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


@pytest.mark.parametrize(
    ("values", "step"),
    [
        (GREY, 0),
        (GREY.astype(np.uint16) * 16, 1),  # 12 bits
        (GREY.astype(np.uint16) * 257, 0),  # 16 bits
        (GREY.astype(np.int32) * 257, 0),
        (GREY.astype(np.float32) / 255, 0),
        (GREY.astype(np.float32), 0),
        (GREY.astype(np.uint16) * 16 + 100, 10),  # what a camera adds takes it above 12 bits
        ((GREY * (255 / 199)).astype(np.float32) / 7 - 3, 57),  # below 0: from the lowest to the highest
    ],
)
def test_depths(tmp_path: Path, values: np.ndarray, step: int) -> None:
    Image.fromarray(values).save(tmp_path / "image.tif")
    found = read_image(tmp_path / "image.tif").numpy().astype(int)
    assert found.shape == (3, *GREY.shape)
    assert np.abs(found - GREY).max() <= step


def test_outliers_change_nothing_else(tmp_path: Path) -> None:
    hot = GREY.astype(np.uint16) * 16
    hot[5, 5] = 65535
    torn = GREY.astype(np.float32) / 255
    torn[3, 3], torn[3, 4] = np.nan, np.inf
    for values, places in ((hot, [(5, 5)]), (torn, [(3, 3), (3, 4)])):
        Image.fromarray(values).save(tmp_path / "image.tif")
        found = read_image(tmp_path / "image.tif")[0].numpy().astype(int)
        rest = np.ones(GREY.shape, bool)
        for place in places:
            rest[place] = False
        assert np.abs(found - GREY)[rest].max() <= 1
    assert (found[3, 3], found[3, 4]) == (0, 255)
    empty = np.random.default_rng(0).integers(400, 420, (40, 50), dtype=np.uint16)  # a camera's noise, of 12 bits
    assert int(np.ptp(to_8_bits(empty))) <= 2


def test_colour_of_16_bits(tmp_path: Path) -> None:
    colours = np.dstack([GREY.astype(np.uint16)] * 3)
    (tmp_path / "image.png").write_bytes(png_of_16_bits(colours * 257))
    assert np.array_equal(read_image(tmp_path / "image.png")[0].numpy(), GREY)
    (tmp_path / "image.png").write_bytes(png_of_16_bits(colours * 16))  # of 12 bits, of which Pillow keeps 4
    with pytest.raises(UserError, match="uses 12 of them or fewer, of which Pillow keeps the upper 4"):
        read_image(tmp_path / "image.png")


@pytest.mark.parametrize(("orientation", "turns"), [(3, 2), (6, 1), (8, 3)])
@pytest.mark.parametrize("deep", [False, True])
def test_orientation(tmp_path: Path, orientation: int, turns: int, deep: bool) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = np.ascontiguousarray(np.rot90(GREY, turns))
    Image.fromarray(stored.astype(np.uint16) * 257 if deep else stored).save(tmp_path / "image.png", exif=exif)
    assert np.array_equal(np.asarray(read_picture(tmp_path / "image.png"))[..., 0], GREY)
    assert np.array_equal(np.asarray(read_picture(tmp_path / "image.png", upright=False))[..., 0], stored)


def test_refusals(tmp_path: Path) -> None:
    page = Image.fromarray(GREY)
    page.save(tmp_path / "pages.tif", save_all=True, append_images=[page, page])
    (tmp_path / "torn.png").write_bytes(png_of_16_bits(np.zeros((4, 4, 3), np.uint16))[:40])
    for name, words in (("pages.tif", "holds 3 pages"), ("torn.png", "torn.png")):
        with pytest.raises(UserError, match=words) as refused:
            read_image(tmp_path / name)
        assert "\n" not in str(refused.value)
    (tmp_path / "._a.png").write_bytes(b"\0\5\26\7")  # which a Mac leaves behind
    assert "._a.png" not in {path.name for path in image_files(tmp_path)}


def test_classes_of_16_bits_are_told_apart(tmp_path: Path) -> None:
    """Pillow's own conversion makes all of these white."""
    rng = np.random.default_rng(0)
    for label, brightness in (("dark", 10_000), ("light", 40_000)):
        (tmp_path / label).mkdir()
        for number in range(3):
            values = rng.integers(2000, 4000, (8, 8)).astype(np.uint16) + brightness
            Image.fromarray(values).save(tmp_path / label / f"{number}.png")
    split = load_splits(str(tmp_path), (8, 8), progress=False)["train"]
    means = split.images.float().mean((1, 2, 3))
    assert means[:3].mean() == pytest.approx(13_000 / 257, abs=2)
    assert means[3:].mean() == pytest.approx(43_000 / 257, abs=2)


def test_a_set_has_one_depth(tmp_path: Path) -> None:
    """A dim image of a 16-bit set stays dimmer than a bright one, also where its own values would fit 12 bits."""
    for label, values in (("bright", [60_000, 60_000]), ("dim", [3_000, 3_000])):
        for split in ("train", "test"):
            folder = tmp_path / split / label
            folder.mkdir(parents=True)
            for number, value in enumerate(values if split == "train" else [3_000]):
                Image.fromarray(np.full((8, 8), value, np.uint16)).save(folder / f"{number}.png")
    splits = load_splits(str(tmp_path), (8, 8), progress=False)
    dim, bright = round(3_000 / 65_535 * 255), round(60_000 / 65_535 * 255)
    assert splits["train"].images.amax((1, 2, 3)).tolist() == [bright, bright, dim, dim]
    assert splits["test"].images.amax((1, 2, 3)).tolist() == [dim, dim]  # as the training images have it
    assert read_image(tmp_path / "test" / "dim" / "0.png").max() > 180  # alone, it has 12 bits
