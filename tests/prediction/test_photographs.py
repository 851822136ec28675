"""Classes of image files: the same as timm's own transform and network give, in every form, and what is refused."""

import csv
import io
import json
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from sklearn.datasets import load_sample_images
from timm.data import create_transform, resolve_data_config
from typer.testing import CliRunner

import timm_layeract
from timm_layeract.cli import app
from timm_layeract.errors import UserError
from timm_layeract.prediction.photographs import class_names, classify_files
from timm_layeract.prediction.predict import gives_maps

MODEL = "resnet50_lasilu.tin200"


@pytest.fixture
def photographs(tmp_path: Path) -> Path:
    folder = tmp_path / "photographs"
    folder.mkdir()
    china, flower = (Image.fromarray(image) for image in load_sample_images().images)
    china.save(folder / "china.png")
    flower.convert("CMYK").save(folder / "flower.jpg", quality=95)
    return folder


def run(*arguments: object, code: int = 0, **options: object) -> str:
    done = CliRunner().invoke(app, ["predict", *map(str, arguments)], **options)  # type: ignore[arg-type]
    if isinstance(done.exception, UserError):
        raise done.exception
    assert done.exit_code == code, done.output
    return done.stdout


def test_classes_are_those_that_timm_gives(photographs: Path) -> None:
    model = timm.create_model(MODEL, pretrained=True).eval()
    transform = create_transform(**resolve_data_config({}, model=model, use_test_size=True))
    with torch.inference_mode():
        expected = model(transform(Image.open(photographs / "china.png")).unsqueeze(0)).softmax(1)[0]
    rows = json.loads(run("-m", MODEL, photographs, "--format", "json", "--top", 3))
    assert [Path(row["image"]).name for row in rows] == ["china.png", "flower.jpg"]
    first = rows[0]["classes"]
    assert [each["probability"] for each in first] == pytest.approx(expected.topk(3).values.tolist(), rel=1e-4)
    names = [model.pretrained_cfg["label_names"][index] for index in expected.topk(3).indices]
    assert [each["class"].rsplit("(")[-1].rstrip(")") for each in first] == names


def test_forms_say_the_same_and_a_contact_sheet_shows_them(photographs: Path, tmp_path: Path) -> None:
    told = json.loads(run("-m", MODEL, photographs, "--format", "json", "--batch-size", 1))
    rows = list(csv.DictReader(io.StringIO(run("-m", MODEL, photographs, "--format", "csv"))))
    assert [row["class"] for row in rows] == [each["class"] for image in told for each in image["classes"]]
    assert [row["rank"] for row in rows] == ["1", "2", "3", "4", "5"] * 2
    printed = run("-m", MODEL, photographs, "-o", tmp_path / "out")
    assert told[0]["classes"][0]["class"] in printed
    with (tmp_path / "out" / "classes.csv").open() as file:
        assert [row["class"] for row in csv.DictReader(file)] == [row["class"] for row in rows]
    sheet = np.asarray(Image.open(tmp_path / "out" / "classes.png").convert("L"))
    assert sheet.shape[1] > sheet.shape[0]  # two pictures side by side
    assert (sheet[:, : sheet.shape[1] // 2] < 200).any()
    assert (sheet[:, sheet.shape[1] // 2 :] < 200).any()


def test_an_image_from_standard_input(photographs: Path) -> None:
    content = (photographs / "china.png").read_bytes()
    (row,) = json.loads(run("-m", "resnet20_lasilu", "-", "--format", "json", input=content))
    (same,) = json.loads(run("-m", "resnet20_lasilu", photographs / "china.png", "--format", "json"))
    assert (row["image"], row["classes"]) == ("stdin", same["classes"])


def test_unreadable_files_are_reported_and_the_rest_goes_on(photographs: Path) -> None:
    (photographs / "broken.jpg").write_text("no image")
    done = CliRunner().invoke(app, ["predict", "-m", "resnet20_lasilu", str(photographs)])
    assert done.exit_code == 1
    assert "broken.jpg" in done.stderr
    assert "china.png" in done.stdout
    assert "flower.jpg" in done.stdout


@pytest.mark.parametrize(
    ("model", "options", "says"),
    [
        ("resnet20_lasilu", ["--tile", "64"], "gives classes, no masks: leave out --tile"),
        ("resnet20_lasilu", ["--no-overlay"], "leave out --overlay/--no-overlay"),
        ("unet_lasilu.nuclei", ["--top", "2"], "gives masks: leave out --top"),
        ("unet_lasilu.nuclei", ["--format", "csv"], "gives masks: leave out --format"),
    ],
)
def test_options_that_a_network_has_no_use_for(model: str, options: list[str], says: str, photographs: Path) -> None:
    with pytest.raises(UserError, match=says):
        run("-m", model, photographs, *options)


def test_nothing_to_classify_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for source, says in (("empty", "holds no image"), ("absent.png", "no file")):
        with pytest.raises(UserError, match=says):
            run("-m", "resnet20_lasilu", tmp_path / source, "-o", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_names_of_classes() -> None:
    assert class_names(timm.create_model("resnet20_lasilu", pretrained=True))[:2] == ("airplane", "automobile")
    assert class_names(timm.create_model("resnet18"))[0] == "tench, Tinca tinca"
    assert class_names(timm.create_model("resnet20", num_classes=3)) == ("0", "1", "2")
    with pytest.raises(UserError, match="head has 1 outputs"):
        classify_files(timm.create_model("resnet20", num_classes=1), [])


def test_the_network_says_what_it_gives() -> None:
    assert gives_maps(timm.create_model("unet_lasilu", width=4))
    assert not gives_maps(timm.create_model("cnn16"))


def test_a_network_that_reads_texts_is_refused(photographs: Path, tmp_path: Path) -> None:
    network = timm.create_model("textrcnn_lasilu", vocab_size=50, num_classes=2)
    timm_layeract.save_pretrained(network, tmp_path / "texts")
    with pytest.raises(UserError, match="reads texts"):
        run("-m", tmp_path / "texts", photographs)
