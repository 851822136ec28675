"""Weights that we saved, read by other roads than our own: timm's checkpoint_path and load_checkpoint, transformers."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import timm_layeract
from tests.hub_server import HubServer
from timm_layeract.checkpoints.fingerprint import ActivationMismatchError
from timm_layeract.checkpoints.load import check_activations
from timm_layeract.checkpoints.manifest import HUB_FILE
from timm_layeract.checkpoints.save import save_weights
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


def test_load_checkpoint_keeps_its_arguments(saved: Path, tmp_path: Path) -> None:
    weights = load_file(saved / HUB_FILE)
    plain = tmp_path / "plain.safetensors"
    save_file(weights, plain)  # no fingerprint
    assert torch.equal(timm.create_model("resnet20", checkpoint_path=str(plain)).fc.weight, weights["fc.weight"])

    def loaded(path: Path, **options: Any) -> Tensor:
        model = timm.create_model("resnet20_lasilu")
        timm.models.load_checkpoint(model=model, checkpoint_path=str(path), **options)
        return model.fc.weight

    def filter_fn(state: dict[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
        return {**state, "fc.weight": state["fc.weight"] + 2}

    assert torch.equal(loaded(saved / HUB_FILE, filter_fn=filter_fn), weights["fc.weight"] + 2)
    averaged = {**weights, "fc.weight": weights["fc.weight"] + 1}
    torch.save({"state_dict": weights, "state_dict_ema": averaged}, tmp_path / "both.pth")
    assert torch.equal(loaded(tmp_path / "both.pth"), averaged["fc.weight"])
    assert torch.equal(loaded(tmp_path / "both.pth", use_ema=False), weights["fc.weight"])
    ordered = {f"renamed.{name}": weights[name] for name in timm.create_model("resnet20_lasilu").state_dict()}
    torch.save(ordered, tmp_path / "renamed.pth")
    assert torch.equal(loaded(tmp_path / "renamed.pth", remap=True), weights["fc.weight"])
    save_file({name: weights[name] for name in weights if name != "fc.weight"}, plain)
    loaded(plain, strict=False)
    with pytest.raises(RuntimeError, match="Missing key"):
        loaded(plain)


@pytest.mark.parametrize("place", ["folder", "file", "hub"])
def test_networks_of_timm_refuse_other_activations(place: str, hub: HubServer, tmp_path: Path) -> None:
    model = timm.create_model("test_resnet", act_layer="lahardsilu", num_classes=3)
    timm_layeract.save_pretrained(model, tmp_path)
    hub.add("org/net", {name: (tmp_path / name).read_bytes() for name in ("config.json", HUB_FILE)})
    cfg = {
        "folder": {"source": "local-dir", "file": str(tmp_path)},
        "file": {"file": str(tmp_path / HUB_FILE)},
        "hub": {"hf_hub_id": "org/net"},
    }[place]
    options = {"num_classes": 3, "pretrained": True, "pretrained_cfg_overlay": {**cfg, "num_classes": 3}}
    right = timm.create_model("test_resnet", act_layer="lahardsilu", **options)
    assert torch.equal(right.fc.weight, model.fc.weight)
    for act_layer in (None, "lasilu", "lahardsilu(alpha=0.1)"):
        with pytest.raises(ActivationMismatchError, match=r"model.safetensors holds weights for other activations"):
            timm.create_model("test_resnet", act_layer=act_layer, **options)
    name = {"folder": f"local-dir:{tmp_path}", "hub": "hf-hub:org/net"}.get(place)
    if name:
        assert torch.equal(timm.create_model(name, pretrained=True).fc.weight, model.fc.weight)
        with pytest.raises(ActivationMismatchError, match=r"LAHardSiLU\(alpha=1e-05\) expected, SiLU\(\) found"):
            timm.create_model(name, pretrained=True, act_layer="silu")


def test_features_are_compared_as_far_as_they_go(tmp_path: Path) -> None:
    # timm builds these by another class: without the head, whose activation comes last, and with a first one renamed
    model = timm.create_model("mobilenetv3_small_050")
    timm_layeract.save_pretrained(model, tmp_path)
    name = f"local-dir:{tmp_path}"
    features = timm.create_model(name, pretrained=True, features_only=True)
    assert torch.equal(features.conv_stem.weight, model.conv_stem.weight)
    assert timm.create_model(name, pretrained=True, num_classes=0).num_classes == 0
    for act_layer in ("silu", "relu"):  # the network runs ReLU elsewhere
        with pytest.raises(ActivationMismatchError):
            timm.create_model(name, pretrained=True, features_only=True, act_layer=act_layer)


def test_features_may_lack_activations_and_run_no_others(tmp_path: Path) -> None:
    path = tmp_path / HUB_FILE
    save_weights(nn.ModuleDict({"stem": nn.Hardswish(), "body": nn.SiLU(), "head": nn.Hardswish()}), path)
    check_activations(nn.ModuleDict({"act1": nn.Hardswish(), "body": nn.SiLU()}), path, features=True)
    for other in (
        {"act1": nn.ReLU(), "body": nn.SiLU()},
        {"stem": nn.Hardswish(), "body": nn.Hardswish()},
        {"stem": nn.Identity(), "body": nn.SiLU()},
    ):
        with pytest.raises(ActivationMismatchError):
            check_activations(nn.ModuleDict(other), path, features=True)


def test_a_whole_network_lacks_no_activation(saved: Path) -> None:
    model = timm.create_model("resnet20_lasilu")
    del model.layer3[2].act2
    with pytest.raises(ActivationMismatchError, match=r"layer3\.2\.act2: .* expected, nothing found"):
        timm.models.load_pretrained(model, dict(model.pretrained_cfg, file=str(saved / HUB_FILE)), num_classes=10)


def test_load_pretrained_takes_filters_of_one_argument(saved: Path) -> None:
    weights = load_file(saved / HUB_FILE)
    model = timm.create_model("resnet20_lasilu")
    cfg = dict(model.pretrained_cfg, file=str(saved / HUB_FILE))

    def one_argument(state: dict[str, Tensor]) -> dict[str, Tensor]:
        return {**state, "fc.weight": state["fc.weight"] + 2}

    timm.models.load_pretrained(model, cfg, 10, 3, one_argument)
    assert torch.equal(model.fc.weight, weights["fc.weight"] + 2)
    with pytest.raises(ActivationMismatchError):
        timm.models.load_pretrained(timm.create_model("resnet20"), cfg, 10, 3, one_argument)


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


def test_transformers_loads_swapped_networks(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    model = timm.create_model("resnet18", num_classes=7, in_chans=1).eval()
    timm_layeract.swap_activations(model, "lasilu", alpha=0.01)
    assert timm_layeract.save_pretrained(model, tmp_path, tuple("abcdefg")) == "resnet18_lasilu"
    again = transformers.AutoModelForImageClassification.from_pretrained(tmp_path).eval()
    x = torch.randn(2, 1, 40, 33)
    torch.testing.assert_close(again(x).logits, model(x))  # not the same bits: it runs BatchNorm and LayerAct in one
    assert "".join(again.config.id2label.values()) == "abcdefg"


def test_older_folders_are_loaded_by_timm(saved: Path, tmp_path: Path) -> None:
    shutil.copytree(saved, tmp_path, dirs_exist_ok=True)
    config = json.loads((tmp_path / "config.json").read_text())
    assert "num_classes" not in config["model_args"]
    config["model_args"]["num_classes"] = config["num_classes"]  # as it was written before
    (tmp_path / "config.json").write_text(json.dumps(config))
    model = timm.create_model(f"local-dir:{tmp_path}", pretrained=True)
    assert torch.equal(model.fc.weight, load_file(saved / HUB_FILE)["fc.weight"])


def test_class_names_of_the_pretrained_config_are_kept(tmp_path: Path) -> None:
    model = timm.create_model("resnet20_lasilu", pretrained=True)
    names = list(model.pretrained_cfg["label_names"])

    def written(network: nn.Module) -> list[str] | None:
        timm_layeract.save_pretrained(network, tmp_path)
        return json.loads((tmp_path / "config.json").read_text()).get("label_names")

    assert written(model) == names
    assert written(timm.create_model(f"local-dir:{tmp_path}", pretrained=True)) == names
    model.reset_classifier(7)  # whose classes have no names yet
    assert written(model) is None


def test_transformers_pipeline_names_the_classes(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    model = timm.create_model("resnet20_lasilu", pretrained=True).eval()
    timm_layeract.save_pretrained(model, tmp_path)
    pixels = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    said = transformers.pipeline("image-classification", model=str(tmp_path))(Image.fromarray(pixels))
    cfg = model.pretrained_cfg
    x = (torch.from_numpy(pixels) / 255 - torch.tensor(cfg["mean"])) / torch.tensor(cfg["std"])
    chances = model(x.permute(2, 0, 1)[None]).detach().softmax(1)[0]
    assert said[0]["label"] == cfg["label_names"][int(chances.argmax())]
    assert said[0]["score"] == pytest.approx(float(chances.max()), abs=1e-4)
