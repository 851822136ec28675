"""`layeract predict`: tiles without seams, image files of every kind, errors that let the rest go on."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from torch import Tensor, nn
from typer.testing import CliRunner

import timm_layeract
from timm_layeract.cli import app
from timm_layeract.data.images import pad_to_multiple, read_image
from timm_layeract.data.pictures import compare_masks, overlay
from timm_layeract.data.tiles import count_tiles, predict_bands
from timm_layeract.errors import UserError
from timm_layeract.prediction import files
from timm_layeract.prediction.files import Segmenter, classes, load_segmenter, predict_files


class Local(nn.Module):
    """A 5x5 convolution: what a tile computes farther than 2 pixels from its edge is what the whole image gives."""

    def __init__(self, outputs: int = 1) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(3, outputs, 5, padding=2)
        self.sizes: list[tuple[int, ...]] = []

    def forward(self, x: Tensor) -> Tensor:
        self.sizes.append(tuple(x.shape[-2:]))
        return self.conv(x)


def predict_probabilities(*arguments: Any) -> Tensor:
    """The bands of a whole image, put together."""
    return torch.cat(list(predict_bands(*arguments)), 1)


def picture(height: int, width: int) -> Tensor:
    return torch.randn(3, height, width, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("size", [(64, 64), (100, 150), (33, 200), (130, 65)])
@pytest.mark.parametrize("overlap", [0, 12, 32])
def test_tiles_cover_the_image_and_count_as_told(size: tuple[int, int], overlap: int) -> None:
    model = Local()
    calls: list[None] = []
    result = predict_probabilities(model, picture(*size), 64, overlap, 16, lambda: calls.append(None))
    assert result.shape == (1, *size)
    assert result.isfinite().all()
    assert ((result > 0) & (result < 1)).all()
    assert len(calls) == len(model.sizes) == count_tiles(*size, 64, overlap, 16)
    assert all(side <= 64 and side % 16 == 0 for shape in model.sizes for side in shape)


def test_blending_hides_the_edges_of_tiles() -> None:
    image = picture(150, 170)
    model = Local()
    with torch.no_grad():
        whole = model(image[None])[0].sigmoid()

    def worst(overlap: int) -> float:
        blended = predict_probabilities(model, image, 64, overlap, 1)
        # a seam is a jump where the truth has none: compare steps from row to row and column to column
        steps = [(blended - whole).diff(dim=dim).abs().max() for dim in (1, 2)]
        return float(max(steps))

    assert worst(32) < 0.25 * worst(0)
    inner = predict_probabilities(model, image, 64, 32, 1)[:, 4:28, 4:28]
    torch.testing.assert_close(inner, whole[:, 4:28, 4:28])


def test_bands_are_the_rows_of_the_blended_whole() -> None:
    """Against the definition: weights of all tiles, summed over the whole image."""
    model, image, tile, overlap = Local(outputs=2), picture(150, 90), 32, 12
    rise = (torch.arange(1, tile + 1) / (overlap + 1)).clamp(max=1)
    weight = torch.outer(*[torch.minimum(rise, rise.flip(0))] * 2).double()
    padded = torch.from_numpy(np.pad(image.numpy(), ((0, 0), (0, 2), (0, 6)), mode="reflect"))
    total, weights = torch.zeros(2, 152, 96, dtype=torch.float64), torch.zeros(152, 96, dtype=torch.float64)
    for top in (0, 20, 40, 60, 80, 100, 120):
        for left in (0, 20, 40, 60, 64):
            window = (..., slice(top, top + tile), slice(left, left + tile))
            with torch.no_grad():
                total[window] += weight * model(padded[window][None])[0].softmax(0)
            weights[window] += weight
    bands = list(predict_bands(model, image, tile, overlap, 8))
    assert [band.shape[1] for band in bands] == [20, 20, 20, 20, 20, 20, 30]
    torch.testing.assert_close(torch.cat(bands, 1).double(), (total / weights)[:, :150, :90], rtol=1e-5, atol=1e-6)


def test_classes_are_those_of_the_probabilities() -> None:
    image = torch.randint(0, 256, (3, 70, 90), generator=torch.Generator().manual_seed(2), dtype=torch.uint8)
    for outputs in (1, 3):
        segmenter = Segmenter(Local(outputs).eval(), (0.4, 0.5, 0.6), (0.2, 0.3, 0.4), 16, tuple("abc"[:outputs]))
        mean, std = torch.tensor([0.4, 0.5, 0.6])[:, None, None], torch.tensor([0.2, 0.3, 0.4])[:, None, None]
        expected = predict_probabilities(segmenter.model, (image / 255 - mean) / std, 32, 8, 16)
        probabilities = segmenter.probabilities(image, 32, 8)
        torch.testing.assert_close(probabilities, expected)
        chosen = probabilities[0] >= 0.4 if outputs == 1 else probabilities.argmax(0)
        assert torch.equal(segmenter.classes(image, 32, 8, 0.4), chosen.to(torch.uint8))


def _peak(side: int, folder: Path) -> int:
    """Bytes of memory that a process has had at most when it has segmented an image of that side."""
    pixels = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(np.tile(pixels, (side // 64, side // 64, 1))).save(folder / f"{side}.png")
    segmenter = Segmenter(nn.Conv2d(3, 4, 1).eval(), (0.5,) * 3, (0.5,) * 3, 16, tuple("abcd"))
    child = os.fork()
    if child == 0:
        files.load_segmenter = lambda _: segmenter
        predict_files("any", [folder / f"{side}.png"], folder / "masks", progress=False, report=lambda _: None)
        os._exit(0)
    _, status, usage = os.wait4(child, 0)
    assert status == 0
    return 1024 * usage.ru_maxrss


def test_memory_is_that_of_the_image_and_a_row_of_tiles(tmp_path: Path) -> None:
    small, large = _peak(1024, tmp_path), _peak(3072, tmp_path)
    assert (large - small) / (3072**2 - 1024**2) < 24  # bytes a pixel; floating-point maps of 4 classes took 64


def test_an_image_that_fits_is_run_whole() -> None:
    model = Local(outputs=3)
    image = picture(48, 64)
    with torch.no_grad():
        torch.testing.assert_close(predict_probabilities(model, image, 64, 16, 16), model(image[None])[0].softmax(0))
    assert model.sizes[0] == (48, 64)


def test_constant_probabilities_stay_constant() -> None:
    model = Local()
    nn.init.zeros_(model.conv.weight)
    result = predict_probabilities(model, picture(101, 203), 32, 10, 8)
    torch.testing.assert_close(result, torch.full_like(result, float(model.conv.bias.detach().sigmoid())))


@pytest.mark.parametrize(
    ("tile", "overlap", "says"), [(50, 8, "multiple of 16"), (64, 33, r"half a tile \(32\), got 33")]
)
def test_tiles_that_do_not_fit_are_refused(tile: int, overlap: int, says: str) -> None:
    with pytest.raises(UserError, match=says):
        predict_probabilities(Local(), picture(64, 64), tile, overlap, 16)


def test_a_classifier_is_no_segmentation_network() -> None:
    with pytest.raises(UserError, match="not a segmentation network"):
        predict_probabilities(timm.create_model("resnet20").eval(), picture(32, 32), 32, 0, 4)


@pytest.mark.parametrize(("size", "multiple"), [((5, 7), 16), ((16, 16), 16), ((30, 17), 16), ((1, 1), 4)])
def test_padding_mirrors(size: tuple[int, int], multiple: int) -> None:
    x = picture(*size)[None]
    padded = pad_to_multiple(x, multiple)
    assert all(side % multiple == 0 for side in padded.shape[-2:])
    assert torch.equal(padded[..., : size[0], : size[1]], x)
    if size == (30, 17):
        expected = np.pad(x.numpy(), ((0, 0), (0, 0), (0, 2), (0, 15)), mode="reflect")
        np.testing.assert_array_equal(padded.numpy(), expected)


def ramp() -> np.ndarray:
    return np.linspace(0, 255, 12 * 10).reshape(12, 10).astype(np.uint8)


KINDS = {
    "grey.png": lambda: Image.fromarray(ramp()),
    "rgb.jpg": lambda: Image.fromarray(np.stack([ramp()] * 3, -1)),
    "rgba.png": lambda: Image.fromarray(np.stack([ramp()] * 4, -1)),
    "grey_alpha.png": lambda: Image.fromarray(ramp()).convert("LA"),
    "palette.gif": lambda: Image.fromarray(ramp()).convert("P"),
    "sixteen.png": lambda: Image.fromarray(ramp().astype(np.uint16) * 16),
    "sixteen.tif": lambda: Image.fromarray(ramp().astype(np.uint16) * 257),
    "float.tif": lambda: Image.fromarray(ramp().astype(np.float32) / 7 - 3),
    "bilevel.png": lambda: Image.fromarray(ramp() > 127),
    "cmyk.tif": lambda: Image.fromarray(np.stack([ramp()] * 3, -1)).convert("CMYK"),
}


@pytest.mark.parametrize("name", KINDS)
def test_every_kind_of_image_is_read(name: str, tmp_path: Path) -> None:
    KINDS[name]().save(tmp_path / name)
    image = read_image(tmp_path / name)
    assert (image.shape, image.dtype) == ((3, 12, 10), torch.uint8)
    truth = 255 * (ramp() > 127) if name == "bilevel.png" else ramp()
    tolerance = 6 if name == "rgb.jpg" else 2 if name == "sixteen.png" else 1
    assert np.abs(image.numpy().astype(int) - truth.astype(int)).max() <= tolerance


def test_a_flat_sixteen_bit_image_keeps_its_brightness(tmp_path: Path) -> None:
    Image.fromarray(np.full((4, 4), 700, np.uint16)).save(tmp_path / "flat.png")
    assert {*read_image(tmp_path / "flat.png").flatten().tolist()} == {round(700 / 4095 * 255)}


@pytest.mark.parametrize(
    ("content", "says"), [(None, "no file"), (b"hello", "not an image of a kind"), (b"cut", "cannot be read")]
)
def test_broken_files_are_named(content: bytes | None, says: str, tmp_path: Path) -> None:
    path = tmp_path / "thing.png"
    if content is not None:
        path.write_bytes(content)
    if content == b"cut":
        Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)).save(path)
        path.write_bytes(path.read_bytes()[:-4000])
    with pytest.raises(UserError, match=rf"thing\.png.*{says}|{says}.*thing\.png"):
        read_image(path)


def test_classes_by_threshold_or_the_likeliest() -> None:
    probabilities = torch.tensor([[[0.2, 0.5, 0.9]]])
    assert classes(probabilities, 0.5).tolist() == [[0, 1, 1]]
    assert classes(probabilities, 0.8).tolist() == [[0, 0, 1]]
    assert classes(torch.tensor([[[0.2]], [[0.5]], [[0.3]]]), 0.9).tolist() == [[1]]


def test_overlay_colours_the_foreground_only() -> None:
    image = torch.full((3, 4, 4), 100, dtype=torch.uint8)
    mask = torch.zeros(4, 4, dtype=torch.uint8)
    assert torch.equal(overlay(image, mask), image)
    mask[0, 0], mask[1, 1] = 1, 2
    drawn = overlay(image, mask)
    assert torch.equal(drawn[:, 2:], image[:, 2:])
    assert not torch.equal(drawn[:, 0, 0], drawn[:, 1, 1])


def test_a_row_compares_image_truth_and_prediction() -> None:
    image = torch.full((3, 40, 20), 100, dtype=torch.uint8)
    nothing, everything = torch.zeros(40, 20, dtype=torch.uint8), torch.ones(40, 20, dtype=torch.uint8)
    rows = compare_masks([(image, everything, nothing), (image, nothing, nothing)], side=32)
    assert rows.shape == (3, 2 * 32 + 3 * 4, 3 * 32 + 4 * 4)
    cells = [[rows[:, 4 + 36 * row :, 4 + 36 * column :][:, :32, :32] for column in range(3)] for row in range(2)]
    red = [[bool((cell[0] != 100).any()) for cell in row] for row in cells]
    assert red == [[False, True, False], [False, False, False]]


@pytest.fixture
def saved(tmp_path: Path) -> str:
    torch.manual_seed(0)
    timm_layeract.save_pretrained(timm.create_model("unet_lasilu", width=4), tmp_path / "model")
    return f"local-dir:{tmp_path / 'model'}"


def test_predicts_files_of_folders_and_goes_on_after_failures(saved: str, tmp_path: Path) -> None:
    folder, empty = tmp_path / "slides", tmp_path / "empty"
    folder.mkdir()
    empty.mkdir()
    for name, make in KINDS.items():
        make().resize((70, 90)).save(folder / f"{name.replace('.', '_')}.{name.split('.')[1]}")
    (folder / "notes.txt").write_text("no image")
    (folder / "broken.png").write_text("no image")
    arguments = ["predict", str(folder), str(empty), str(folder / "rgb_jpg.jpg")]
    options = ["-m", saved, "-o", str(tmp_path / "out"), "--tile", "64", "--overlap", "16"]
    done = CliRunner().invoke(app, [*arguments, *options])
    assert done.exit_code == 1
    failures = [line for line in done.stderr.splitlines() if line.startswith("layeract: ")]
    words = ("holds no image", "not an image", "overwrite")
    assert [next(word for word in words if word in line) for line in failures] == list(words)
    written = sorted(path.name for path in (tmp_path / "out").iterdir())
    stems = [name.replace(".", "_") for name in KINDS]
    assert written == sorted(f"{stem}.{kind}.png" for stem in stems for kind in ("mask", "overlay"))
    mask = np.asarray(Image.open(tmp_path / "out" / "grey_png.mask.png"))
    assert mask.shape == (90, 70)
    assert set(np.unique(mask)) <= {0, 255}
    segmenter = load_segmenter(saved)
    probabilities = segmenter.probabilities(read_image(folder / "grey_png.png"), 64, 16)
    np.testing.assert_array_equal(mask, 255 * (probabilities[0].numpy() >= 0.5))


@pytest.mark.parametrize("sources", [["absent.png", "one.png"], ["broken.png"], ["empty"], ["empty", "broken.png"]])
def test_nothing_to_segment_is_one_line_and_leaves_no_folder(sources: list[str], saved: str, tmp_path: Path) -> None:
    Image.fromarray(ramp()).save(tmp_path / "one.png")
    (tmp_path / "broken.png").write_text("no image")
    (tmp_path / "empty").mkdir()
    paths = [tmp_path / source for source in sources]
    with pytest.raises(UserError, match=sources[0]):
        predict_files(saved, paths, tmp_path / "out", progress=False)
    assert not (tmp_path / "out").exists()


def test_a_second_run_does_not_read_its_own_masks(saved: str, tmp_path: Path) -> None:
    Image.fromarray(ramp()).save(tmp_path / "one.png")
    for _ in range(2):
        assert predict_files(saved, [tmp_path], tmp_path, pictures=True, progress=False, report=lambda _: None) == []
    names = sorted(path.name for path in tmp_path.iterdir() if path.is_file())
    assert names == ["one.mask.png", "one.overlay.png", "one.png"]


def test_an_smp_network_predicts(tmp_path: Path) -> None:
    import segmentation_models_pytorch as smp

    torch.manual_seed(0)
    options = dict(encoder_weights=None, encoder_depth=3, decoder_channels=(16, 8, 8), classes=3)
    smp.create_model("unet_lasilu", "resnet18", **options).save_pretrained(tmp_path / "model")
    Image.fromarray(ramp()).save(tmp_path / "one.png")
    assert not predict_files(f"smp:{tmp_path / 'model'}", [tmp_path / "one.png"], tmp_path / "out", progress=False)
    assert set(np.unique(np.asarray(Image.open(tmp_path / "out" / "one.mask.png")))) <= {0, 1, 2}


def test_a_classifier_is_refused_at_once(tmp_path: Path) -> None:
    timm_layeract.save_pretrained(timm.create_model("resnet20_lasilu"), tmp_path / "model")
    Image.fromarray(ramp()).save(tmp_path / "one.png")
    with pytest.raises(UserError, match="not a segmentation network"):
        predict_files(f"local-dir:{tmp_path / 'model'}", [tmp_path / "one.png"], tmp_path / "out", progress=False)


@pytest.mark.parametrize(
    ("model", "says"),
    [("unet_lasillu", "did you mean 'unet_lasilu'"), ("unet_lahardsilu", "no pretrained weights")],
)
def test_a_model_that_cannot_be_used(model: str, says: str, tmp_path: Path) -> None:
    Image.fromarray(ramp()).save(tmp_path / "x.png")
    command = [sys.executable, "-m", "timm_layeract.cli", "predict", str(tmp_path / "x.png"), "-m", model]
    command += ["-o", str(tmp_path / "out")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert says in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert not (tmp_path / "out").exists()
