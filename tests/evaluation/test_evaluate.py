"""`layeract evaluate` against timm's own data set, transforms, loader and metric, on photographs of several shapes."""

import json
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
import torch.nn.functional as F
from PIL import Image
from sklearn.datasets import load_sample_images
from timm.data import create_dataset, create_loader, resolve_data_config
from timm.utils import AverageMeter, accuracy

from tests.cli.test_cli import layeract
from tests.distributed import run_processes
from timm_layeract.checkpoints.save import save_pretrained
from timm_layeract.data.test_images import encoded_test_rows
from timm_layeract.errors import UserError
from timm_layeract.evaluation.evaluate import Transformed, evaluate, preprocessing

CLASSES = ("ant", "bee", "cat", "dog", "eel", "fox")


@pytest.fixture(scope="module")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Windows of scikit-learn's two photographs, wide, tall, square and small, as validation/CLASS/*.png."""
    folder = tmp_path_factory.mktemp("photographs")
    sources = [Image.fromarray(image) for image in load_sample_images().images]
    rng = np.random.default_rng(0)
    for number in range(60):
        width, height = (int(rng.integers(40, 160)) for _ in range(2))
        left, upper = int(rng.integers(0, 640 - width)), int(rng.integers(0, 427 - height))
        path = folder / "validation" / CLASSES[number % 6] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        sources[number % 2].crop((left, upper, left + width, upper + height)).save(path)
    return folder


def network(folder: Path, name: str, **args: Any) -> tuple[str, torch.nn.Module]:
    torch.manual_seed(0)
    model = timm.create_model(name, num_classes=6, **args).eval()
    model.get_classifier().weight.data.normal_()  # a fresh head tells hardly anything apart
    save_pretrained(model, folder / "model", CLASSES)
    return f"local-dir:{folder / 'model'}", model


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # timm leaves files open
@pytest.mark.parametrize("crop_mode", ["center", "squash", "border"])
@pytest.mark.parametrize(
    "name", ["resnet18", "mobilenetv3_small_050", "convnext_atto", "efficientnet_lite0", "resnet18_lasilu"]
)
def test_figures_are_those_of_timms_validation(tmp_path: Path, photographs: Path, name: str, crop_mode: str) -> None:
    source, model = network(tmp_path, name)
    found = evaluate(
        source, str(photographs), image_size=64, crop_mode=crop_mode, batch_size=25, workers=0, progress=False
    )
    config = resolve_data_config({"input_size": (3, 64, 64), "crop_mode": crop_mode}, model=model, use_test_size=True)
    loader = create_loader(
        create_dataset("", root=photographs, split="validation"),
        batch_size=25,
        use_prefetcher=False,
        num_workers=0,
        device=torch.device("cpu"),
        **config,
    )
    top1, top5, losses = AverageMeter(), AverageMeter(), AverageMeter()
    with torch.no_grad():
        for images, labels in loader:
            logits = model(images)
            first, fifth = accuracy(logits, labels, topk=(1, 5))
            for meter, value in ((top1, first), (top5, fifth), (losses, F.cross_entropy(logits, labels))):
                meter.update(float(value), len(images))
    assert (found["count"], found["split"]) == (60, "validation")
    assert found["top1"] == pytest.approx(top1.avg, abs=1e-4)
    assert found["top5"] == pytest.approx(top5.avg, abs=1e-4)
    assert found["loss"] == pytest.approx(losses.avg, rel=1e-5)
    assert 0 < found["top1"] < found["top5"] < 100


def test_a_disc_stays_round(tmp_path: Path) -> None:
    """timm resizes the short side and crops the centre: a disc in a photograph twice as wide as high stays one."""
    rows, columns = np.mgrid[:200, :400]
    disc = np.hypot(rows - 100, columns - 200) < 60
    folder = tmp_path / "test" / "disc"
    folder.mkdir(parents=True)
    Image.fromarray((disc * 255).astype(np.uint8)).save(folder / "one.png")
    settings = preprocessing(timm.create_model("resnet18"), mean=(0.0,) * 3, std=(1.0,) * 3)
    images = Transformed(encoded_test_rows(str(tmp_path)), timm.data.create_transform(**settings), "RGB", True)
    image, label = images[0]
    seen = image[0] > 0.5
    height, width = int(seen.any(1).sum()), int(seen.any(0).sum())
    assert image.shape == settings["input_size"]
    assert label == 0
    assert abs(height - width) <= 1
    assert height == pytest.approx(120 / 200 * image.shape[1] / settings["crop_pct"], abs=2)


def test_photographs_stand_upright(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The same pictures, stored turned with an orientation of EXIF that says so."""
    source, _ = network(tmp_path, "resnet18")
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees clockwise
    for number, pixels in enumerate(np.random.default_rng(0).integers(0, 255, (30, 8, 8, 3), dtype=np.uint8)):
        picture = Image.fromarray(pixels).resize((64, 64))
        for kind in ("plain", "turned"):
            (tmp_path / kind / "test" / CLASSES[number % 6]).mkdir(parents=True, exist_ok=True)
        picture.save(tmp_path / "plain" / "test" / CLASSES[number % 6] / f"{number}.png")
        turned = picture.transpose(Image.Transpose.ROTATE_90)
        turned.save(tmp_path / "turned" / "test" / CLASSES[number % 6] / f"{number}.png", exif=exif)
    common = {"image_size": 64, "crop_pct": 1.0, "workers": 0, "progress": False}
    plain, upright, stored = (
        evaluate(source, str(tmp_path / kind), upright=turn, **common)
        for kind, turn in (("plain", True), ("turned", True), ("turned", False))
    )
    assert upright["loss"] == plain["loss"] != stored["loss"]
    output = tmp_path / "result.json"
    code, out, err = layeract(
        "evaluate", "-m", source, "-d", str(tmp_path / "turned"), "-o", str(output), "--as-stored",
        "--image-size", "64", "--crop-pct", "1", "--workers", "0", capsys=capsys,
    )  # fmt: skip
    assert (code, err) == (0, "")
    result = json.loads(output.read_text())
    assert result["loss"] == stored["loss"]
    assert f"top-1 {stored['top1']:.2f} %, top-5 {stored['top5']:.2f} %" in out
    assert result["settings"]["upright"] is False
    assert result["settings"]["crop_mode"] == "center"


def test_some_of_the_networks_classes(tmp_path: Path, photographs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """As ImageNet-A and -R: the data's classes are some of the network's, by index."""
    torch.manual_seed(0)
    model = timm.create_model("resnet18", num_classes=9).eval()
    model.get_classifier().weight.data.normal_()
    save_pretrained(model, tmp_path / "nine")
    few = timm.create_model("resnet18", num_classes=6).eval()
    chosen = [7, 0, 3, 8, 1, 5]
    state = model.state_dict()
    few.load_state_dict({key: value[chosen] if key.startswith("fc.") else value for key, value in state.items()})
    save_pretrained(few, tmp_path / "six")
    common = {"image_size": 64, "workers": 0, "progress": False}
    subset = evaluate(f"local-dir:{tmp_path}/nine", str(photographs), valid_labels=chosen, **common)
    whole = evaluate(f"local-dir:{tmp_path}/six", str(photographs), **common)
    assert all(subset[key] == pytest.approx(whole[key], rel=1e-6) for key in ("top1", "top5", "loss"))
    indices = tmp_path / "indices.txt"
    faults = {"1\n2\n": "6 classes, the network 2", "1 x": "whole numbers", "0 1 2 3 4 9": "valid_labels holds 9"}
    for content, words in faults.items():
        indices.write_text(content)
        nine = ("-m", f"local-dir:{tmp_path}/nine", "-d", str(photographs), "--valid-labels", str(indices))
        code, _, err = layeract("evaluate", *nine, capsys=capsys)
        assert code == 2
        assert words in err
        assert err.count("\n") == 1


def test_classes_are_compared_by_name(tmp_path: Path, photographs: Path) -> None:
    torch.manual_seed(0)
    model = timm.create_model("resnet18", num_classes=6)
    save_pretrained(model, tmp_path / "model", ("ant", "bee", "cat", "dog", "elk", "fox"))
    with pytest.raises(UserError, match="Class 4 is 'eel' in the data and 'elk' in the network"):
        evaluate(f"local-dir:{tmp_path}/model", str(photographs))
    with pytest.raises(UserError, match="has no split 'tset'; known are validation"):
        evaluate(f"local-dir:{tmp_path}/model", str(photographs), split="tset")


def test_processes_share_the_images(tmp_path: Path, photographs: Path) -> None:
    """Two processes, an uneven number of uneven batches: the same file."""
    source, _ = network(tmp_path, "resnet18_lasilu")
    alone = share(0, source, str(photographs), tmp_path / "one.json")
    together = run_processes(partial(share, source=source, data=str(photographs), output=tmp_path / "two.json"), 2)
    assert together == [alone, alone]
    assert (tmp_path / "two.json").read_text() == (tmp_path / "one.json").read_text()


def share(rank: int, source: str, data: str, output: Path) -> dict[str, Any]:
    result = evaluate(source, data, output, image_size=64, batch_size=25, workers=0, progress=False)
    return {key: result[key] for key in ("top1", "top5", "loss", "count")}
