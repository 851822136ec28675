"""Weights that we saved, read by other roads than our own: timm's checkpoint_path and load_checkpoint, transformers."""

from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from torch import nn

import timm_layeract
from timm_layeract.checkpoints.fingerprint import ActivationMismatchError
from timm_layeract.checkpoints.manifest import HUB_FILE
from timm_layeract.errors import UserError


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a LA-SiLU network, in it its weights."""
    folder = tmp_path_factory.mktemp("saved")
    torch.manual_seed(0)
    timm_layeract.save_pretrained(timm.create_model("resnet20_lasilu"), folder)
    return folder


@pytest.mark.parametrize(
    ("name", "options"), [("resnet20", {}), ("resnet20_lahardsilu", {}), ("resnet20_lasilu", {"alpha": 0.1})]
)
def test_other_activations_are_refused_by_every_road_of_timm(name: str, options: dict[str, float], saved: Path) -> None:
    path = str(saved / HUB_FILE)
    with pytest.raises(ActivationMismatchError, match="other activations"):
        timm.create_model(name, checkpoint_path=path, **options)
    model = timm.create_model(name, **options)
    before = model.conv1.weight.clone()
    for wrapped in (model, nn.DataParallel(model)):
        with pytest.raises(ActivationMismatchError, match="other activations"):
            timm.models.load_checkpoint(wrapped, path, strict=False)
    assert torch.equal(model.conv1.weight, before)


def test_the_same_activations_and_files_that_say_nothing_are_loaded(saved: Path, tmp_path: Path) -> None:
    path = str(saved / HUB_FILE)
    right = timm.create_model(f"local-dir:{saved}", pretrained=True)
    for model in (
        timm.create_model("resnet20_lasilu", checkpoint_path=path),
        timm.create_model("resnet20", checkpoint_path=path, act_layer="lasilu"),
    ):
        assert torch.equal(model.fc.weight, right.fc.weight)
    plain = tmp_path / "plain.pth"
    torch.save({"state_dict": right.state_dict()}, plain)
    assert torch.equal(timm.create_model("resnet20", checkpoint_path=str(plain)).fc.weight, right.fc.weight)


def test_a_damaged_file_is_one_line(saved: Path, tmp_path: Path) -> None:
    path = tmp_path / HUB_FILE
    path.write_bytes((saved / HUB_FILE).read_bytes()[:-100])
    with pytest.raises(UserError, match="cut short or damaged"):
        timm.create_model("resnet20_lasilu", checkpoint_path=str(path))


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("resnet20_lasilu", {}),
        ("resnet20_lasilu", {"num_classes": 7, "alpha": 0.1}),
        ("resnet18_lasilu", {"num_classes": 3, "in_chans": 1}),
        ("resnet18", {"act_layer": "lahardsilu", "num_classes": 4}),
    ],
)
def test_transformers_gives_the_same_logits(name: str, options: dict[str, object], tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    model = timm.create_model(name, **options).eval()
    labels = tuple(f"kind {index}" for index in range(model.num_classes))
    timm_layeract.save_pretrained(model, tmp_path, labels)
    again = transformers.AutoModelForImageClassification.from_pretrained(tmp_path).eval()
    x = torch.randn(2, model.in_chans, 40, 33)
    assert torch.equal(again(x).logits, model(x))
    assert tuple(again.config.id2label.values()) == labels
    assert torch.equal(timm.create_model(f"local-dir:{tmp_path}", pretrained=True).eval()(x), model(x))


def test_transformers_pipeline_names_the_classes(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    model = timm.create_model("resnet20_lasilu", pretrained=True).eval()
    timm_layeract.save_pretrained(model, tmp_path, model.pretrained_cfg["label_names"])
    pixels = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    said = transformers.pipeline("image-classification", model=str(tmp_path))(Image.fromarray(pixels))
    cfg = model.pretrained_cfg
    x = (torch.from_numpy(pixels) / 255 - torch.tensor(cfg["mean"])) / torch.tensor(cfg["std"])
    chances = model(x.permute(2, 0, 1)[None]).detach().softmax(1)[0]
    assert said[0]["label"] == cfg["label_names"][int(chances.argmax())]
    assert said[0]["score"] == pytest.approx(float(chances.max()), abs=1e-4)
