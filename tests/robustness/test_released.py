"""Published corruptions read from disk: both layouts, and what is refused."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tests.cli.test_cli import layeract
from tests.data.test_sources import parquet
from timm_layeract.data.sources import ImageSplit
from timm_layeract.errors import UserError, WriteError
from timm_layeract.robustness.corruptions.generate import RegeneratedSets
from timm_layeract.robustness.corruptions.released import ReleasedSets
from timm_layeract.robustness.corruptions.write import write_sets


def arrays(folder: Path, digits: ImageSplit, count: int = 6) -> np.ndarray:
    """CIFAR-10-C's layout; the severities are told apart by their darkness."""
    images = digits.images[:count].permute(0, 2, 3, 1).numpy()
    five = np.concatenate([images // severity for severity in (1, 2, 3, 4, 5)])
    np.save(folder / "fog.npy", five)
    np.save(folder / "labels.npy", np.tile(digits.labels[:count].numpy().astype(np.uint8), 5))
    return five


def test_arrays(tmp_path: Path, digits: ImageSplit) -> None:
    arrays(tmp_path, digits)
    sets = ReleasedSets(tmp_path, digits.classes, (8, 8))
    assert sets.names == ("fog",)
    for severity in (1, 5):
        split = sets.load("fog", severity)
        assert torch.equal(split.images, digits.images[:6] // severity)
        assert torch.equal(split.labels, digits.labels[:6])


@pytest.mark.parametrize("nested", ["", "weather/"])
def test_folders(tmp_path: Path, digits: ImageSplit, nested: str) -> None:
    for severity in (1, 2):
        for index in range(30):
            folder = tmp_path / f"{nested}fog/{severity}/{digits.labels[index]}"
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(digits.images[index].permute(1, 2, 0).numpy() // severity).save(folder / f"{index:02}.png")
    sets = ReleasedSets(tmp_path, digits.classes, (8, 8))
    assert sets.names == ("fog",)
    split = sets.load("fog", 2)
    order = sorted(range(30), key=lambda index: (int(digits.labels[index]), index))
    assert torch.equal(split.images, digits.images[order] // 2)
    assert torch.equal(split.labels, digits.labels[order])
    with pytest.raises(UserError, match="no severity 5"):
        sets.load("fog", 5)
    with pytest.raises(UserError, match="has 10 classes, the clean data 3"):
        ReleasedSets(tmp_path, ("a", "b", "c"), (8, 8)).load("fog", 2)


def test_what_is_refused(tmp_path: Path, digits: ImageSplit) -> None:
    with pytest.raises(UserError, match="no folder"):
        ReleasedSets(tmp_path / "nowhere", digits.classes, (8, 8))
    with pytest.raises(UserError, match="holds no corruptions"):
        ReleasedSets(tmp_path, digits.classes, (8, 8))
    five = arrays(tmp_path, digits)
    sets = ReleasedSets(tmp_path, digits.classes, (8, 8))
    with pytest.raises(UserError, match="has no frost; known are fog"):
        sets.load("frost", 1)
    with pytest.raises(UserError, match="should hold uint8 images of 32x32x3"):
        ReleasedSets(tmp_path, digits.classes, (32, 32)).load("fog", 1)
    with pytest.raises(UserError, match="of 3 classes"):
        ReleasedSets(tmp_path, ("a", "b", "c"), (8, 8)).load("fog", 1)
    np.save(tmp_path / "fog.npy", five[:-1])
    with pytest.raises(UserError, match="five equal parts"):
        sets.load("fog", 1)
    (tmp_path / "labels.npy").unlink()
    with pytest.raises(UserError, match=r"no labels\.npy"):
        ReleasedSets(tmp_path, digits.classes, (8, 8))


def test_written_sets_are_read_as_released(
    tmp_path: Path, digits: ImageSplit, capsys: pytest.CaptureFixture[str]
) -> None:
    data, folder = tmp_path / "data", tmp_path / "sets"
    data.mkdir()
    parquet(data, digits, {"test": 12})
    arguments = ["corrupt", "-d", str(data), "-o", str(folder), "--size", "8", "--corruptions", "fog,contrast"]
    code, out, _ = layeract(*arguments, capsys=capsys)
    assert (code, out.split()) == (0, ["fog.npy", "contrast.npy"])
    sets, made = ReleasedSets(folder, digits.classes, (8, 8)), RegeneratedSets(digits.take(torch.arange(12)))
    assert sets.names == ("contrast", "fog")
    hashes = json.loads((folder / "sets.json").read_text())["sets"]
    for name in sets.names:
        for severity in (1, 5):
            assert torch.equal(sets.load(name, severity).images, made.load(name, severity).images)
            assert sets.load(name, severity).sha256() == hashes[name][severity - 1]
    code, _, err = layeract(*arguments, "--seed", "1", capsys=capsys)
    assert code == 2
    assert "holds sets of other images, another seed" in err
    (folder / "sets.json").unlink()
    code, _, err = layeract(*arguments, capsys=capsys)
    assert code == 2
    assert "is not empty" in err


def test_writing_that_was_stopped_goes_on(tmp_path: Path, digits: ImageSplit, monkeypatch: pytest.MonkeyPatch) -> None:
    parquet(tmp_path, digits, {"test": 12})
    names, made = ["fog", "contrast", "pixelate"], []

    def load(sets: RegeneratedSets, name: str, severity: int) -> ImageSplit:
        made.append(name)
        if made.count("contrast") == 2 and name == "contrast":
            raise WriteError(28, "No space left on device", "contrast.npy")
        return original(sets, name, severity)

    original = RegeneratedSets.load
    monkeypatch.setattr(RegeneratedSets, "load", load)
    whole = tmp_path / "whole"
    with pytest.raises(WriteError):
        write_sets(str(tmp_path), tmp_path / "sets", (8, 8), names, progress=False, report=lambda _: None)
    made.clear()
    monkeypatch.setattr(RegeneratedSets, "load", lambda *arguments: made.append(arguments[1]) or original(*arguments))
    write_sets(str(tmp_path), tmp_path / "sets", (8, 8), names, progress=False, report=lambda _: None)
    assert {*made} == {"contrast", "pixelate"}
    write_sets(str(tmp_path), whole, (8, 8), names, progress=False, report=lambda _: None)
    assert {path.name: path.read_bytes() for path in whole.iterdir()} == {
        path.name: path.read_bytes() for path in (tmp_path / "sets").iterdir()
    }
