"""TIFF files of which Pillow loses something or all, images larger than it takes, and the brightness of a whole set."""

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from PIL import Image
from typer.testing import CliRunner

from timm_layeract.cli import app
from timm_layeract.data.brightness import Brightness, recorded_brightness
from timm_layeract.data.images import brightness_of_set, image_size, large_images, read_image
from timm_layeract.data.mask_values import read_values
from timm_layeract.data.notes import read_note
from timm_layeract.data.tiles import WINDOW_NOTE
from timm_layeract.errors import UserError
from timm_layeract.networks import load_network
from timm_layeract.prediction.files import load_segmenter, predict_files

RNG = np.random.default_rng(0)
GREY = RNG.integers(0, 250, (30, 40)).astype(np.uint8)
COLOUR = RNG.integers(0, 250, (30, 40, 3)).astype(np.uint8)
OPAQUE = np.full((30, 40, 1), 65535, np.uint16)

KINDS: dict[str, tuple[np.ndarray, dict[str, Any], np.ndarray]] = {
    "float64": (GREY / 255, {}, GREY),
    "float16": ((GREY / 255).astype(np.float16), {}, GREY),
    "int64": (GREY.astype(np.int64) * 257, {}, GREY),
    "colour of 16 bits": (COLOUR.astype(np.uint16) * 257, {"photometric": "rgb"}, COLOUR),
    "colour of 12 bits": (COLOUR.astype(np.uint16) * 16, {"photometric": "rgb"}, COLOUR),
    "planar colour": (
        np.moveaxis(COLOUR.astype(np.uint16) * 257, -1, 0).copy(),
        {"photometric": "rgb", "planarconfig": "separate"},
        COLOUR,
    ),
    "planar colour of 8 bits": (
        np.moveaxis(COLOUR, -1, 0).copy(),
        {"photometric": "rgb", "planarconfig": "separate"},
        COLOUR,
    ),
    "colour of float32": ((COLOUR / 255).astype(np.float32), {"photometric": "rgb"}, COLOUR),
    "colour and alpha of 16 bits": (
        np.dstack([COLOUR.astype(np.uint16) * 257, OPAQUE]),
        {"photometric": "rgb", "extrasamples": ["unassalpha"]},
        COLOUR,
    ),
    "OME-TIFF": (GREY.astype(np.uint16) * 257, {"ome": True}, GREY),
    "OME-TIFF of colour": (COLOUR.astype(np.uint16) * 257, {"ome": True, "photometric": "rgb"}, COLOUR),
    "BigTIFF": (GREY / 255, {"bigtiff": True}, GREY),
    "big-endian, compressed": (GREY / 255, {"byteorder": ">", "compression": "zlib"}, GREY),
}


@pytest.mark.parametrize("content", [False, True])
@pytest.mark.parametrize("name", KINDS)
def test_kinds(tmp_path: Path, name: str, content: bool) -> None:
    values, options, truth = KINDS[name]
    tifffile.imwrite(tmp_path / "image.tif", values, **options)
    source = (tmp_path / "image.tif").read_bytes() if content else tmp_path / "image.tif"
    found = read_image(source).permute(1, 2, 0).numpy().astype(int)
    assert np.abs(found - (truth if truth.ndim == 3 else truth[..., None])).max() <= 1
    assert image_size(source) == (40, 30)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_is_pillows(tmp_path: Path, orientation: int) -> None:
    tag = (274, "H", 1, orientation, True)
    tifffile.imwrite(tmp_path / "deep.tif", COLOUR.astype(np.uint16) * 257, photometric="rgb", extratags=[tag])
    tifffile.imwrite(tmp_path / "plain.tif", COLOUR, photometric="rgb", extratags=[tag])
    deep, plain = (read_image(tmp_path / f"{name}.tif").numpy() for name in ("deep", "plain"))
    np.testing.assert_array_equal(deep, plain)


@pytest.mark.parametrize(
    ("values", "options", "says"),
    [
        (np.stack([GREY / 255] * 5), {}, "planes, 5 of Q"),
        (np.stack([GREY / 255] * 2), {"ome": True, "metadata": {"axes": "CYX"}}, "planes, 2 of C"),
        (GREY.astype(np.complex64), {}, "neither a grey image nor one in RGB"),
        (GREY / 255, {"photometric": "miniswhite"}, "neither a grey image nor one in RGB"),
    ],
)
def test_what_is_no_one_image_is_refused(tmp_path: Path, values: np.ndarray, options: dict, says: str) -> None:
    tifffile.imwrite(tmp_path / "image.tif", values, **options)
    with pytest.raises(UserError, match=rf"image\.tif.*{says}") as refused:
        read_image(tmp_path / "image.tif")
    assert "\n" not in str(refused.value)


def test_several_images_and_broken_ones_are_refused(tmp_path: Path) -> None:
    with tifffile.TiffWriter(tmp_path / "two.tif") as file:
        file.write(GREY / 255, metadata=None)
        file.write(GREY[:5] / 255, metadata=None)
    tifffile.imwrite(tmp_path / "torn.tif", GREY / 255)
    (tmp_path / "torn.tif").write_bytes((tmp_path / "torn.tif").read_bytes()[:3000])
    (tmp_path / "head.tif").write_bytes(b"II*\0")
    for name, says in (("two", "holds 2 images"), ("torn", "cannot be read"), ("head", "cannot be read")):
        with pytest.raises(UserError, match=rf"{name}\.tif.*{says}"):
            read_image(tmp_path / f"{name}.tif")


def test_without_tifffile_nothing_is_lost_in_silence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tifffile", None)
    for name in ("float64", "colour of 12 bits"):
        values, options, _ = KINDS[name]
        monkeypatch.delitem(sys.modules, "tifffile")
        tifffile.imwrite(tmp_path / "image.tif", values, **options)
        monkeypatch.setitem(sys.modules, "tifffile", None)
        with pytest.raises(UserError, match=r"Pillow loses something, or all; .*pip install 'timm-layeract\[tiff\]'"):
            read_image(tmp_path / "image.tif")


def test_masks_of_labels_in_64_bits(tmp_path: Path) -> None:
    labels = GREY.astype(np.int64) * 70_000
    tifffile.imwrite(tmp_path / "mask.tif", labels)
    np.testing.assert_array_equal(read_values(tmp_path / "mask.tif"), labels)


def test_images_larger_than_pillow_takes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 500)
    Image.fromarray(GREY).save(tmp_path / "a.png")
    tifffile.imwrite(tmp_path / "b.tif", GREY / 255)
    for name in ("a.png", "b.tif"):
        with pytest.raises(UserError, match=rf"{name} has more pixels .*--max-megapixels"):
            read_image(tmp_path / name)
    with large_images(0.01):
        for name in ("a.png", "b.tif"):
            assert read_image(tmp_path / name).shape == (3, 30, 40)
    assert Image.MAX_IMAGE_PIXELS == 500
    options = ["predict", "-m", "unet_lasilu.nuclei", str(tmp_path / "a.png"), "-o", str(tmp_path / "out")]
    assert "--max-megapixels" in CliRunner().invoke(app, options).exception.args[0]  # type: ignore[union-attr]
    assert CliRunner().invoke(app, [*options, "--max-megapixels", "1"]).exit_code == 0


def test_a_set_below_zero_has_one_brightness(tmp_path: Path) -> None:
    """As computed tomography: what an image is scaled by does not depend on what it shows."""
    for name, (low, high) in (("a", (-1000, 0)), ("b", (-200, 3000))):
        Image.fromarray(np.linspace(low, high, 40_000, dtype=np.float32).reshape(200, 200)).save(
            tmp_path / f"{name}.tif"
        )
    found = brightness_of_set(sorted(tmp_path.iterdir()))
    assert found is not None
    assert found == pytest.approx((-1000, 3000), abs=4)
    levels = [read_image(tmp_path / f"{name}.tif", brightness=found)[0].float().mean() for name in ("a", "b")]
    assert levels == pytest.approx([255 * 500 / 4000, 255 * 2400 / 4000], abs=1)


def folder_of_12_bits(root: Path) -> Path:
    """Bright and dim discs whose values take 12 bits; a dim image alone would take 8."""
    y, x = np.mgrid[:40, :40]
    for kind in ("images", "masks"):
        (root / kind).mkdir(parents=True)
    for index in range(12):
        disc = (y - 20) ** 2 + (x - 12 - index) ** 2 < 90
        image = np.where(disc, 3500 if index else 200, 100) + RNG.integers(0, 20, (40, 40))
        Image.fromarray(image.astype(np.uint16)).save(root / "images" / f"{index:02}.tif")
        Image.fromarray(disc).save(root / "masks" / f"{index:02}.png")
    return root


@pytest.mark.parametrize("model", ["unet", "smp:unet/resnet18"])
def test_what_images_were_scaled_by_is_used_again(tmp_path: Path, model: str) -> None:
    data = folder_of_12_bits(tmp_path / "data")
    options = ["--task", "segmentation", "--epochs", "1", "--batch-size", "4", "--set", "image_size=[32,32]"]
    train = ["train", "-m", model, "-d", str(data), "-o", str(tmp_path / "run"), *options]
    assert CliRunner().invoke(app, train, catch_exceptions=False).exit_code == 0
    place = f"{'smp:' if model.startswith('smp') else ''}{tmp_path / 'run' / 'model'}"
    assert recorded_brightness(load_network(place)) == Brightness(0, 4095)
    segmenter = load_segmenter(place)
    assert segmenter.brightness == Brightness(0, 4095)
    dim = data / "images" / "00.tif"
    assert int(read_image(dim).max()) > 150  # by itself
    assert not predict_files(place, [dim], tmp_path / "out", progress=False, report=lambda _: None)
    expected = read_image(dim, brightness=segmenter.brightness)
    assert int(expected.max()) < 20
    with Image.open(tmp_path / "out" / "00.overlay.png") as drawn, Image.open(tmp_path / "out" / "00.mask.png") as mask:
        outside = np.asarray(mask) == 0
        np.testing.assert_array_equal(np.asarray(drawn)[outside], expected.permute(1, 2, 0).numpy()[outside])
    # fine-tuned on images of 8 bits, it forgets
    for path in (data / "images").iterdir():
        Image.fromarray(GREY[:1, :1].repeat(40, 0).repeat(40, 1)).save(path)
    tune = ["finetune", "-m", place, "-d", str(data), "-o", str(tmp_path / "tuned"), *options]
    assert CliRunner().invoke(app, tune, catch_exceptions=False).exit_code == 0
    tuned = load_network(place.replace("run", "tuned"))
    assert recorded_brightness(tuned) is None
    assert read_note(tuned, WINDOW_NOTE) == (32,)  # the windows' side
