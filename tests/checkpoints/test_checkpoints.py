"""Saving and loading with the activation fingerprint, and the weights that ship with the package."""

import hashlib
import itertools
import json
from pathlib import Path

import pytest
import timm
import torch
from safetensors import safe_open
from torch import nn
from torch.nn.utils import prune

import timm_layeract
from tests.networks import load_embedded
from tests.overlap import mask_overlap
from timm_layeract._utils.names import SMP
from timm_layeract.checkpoints.fingerprint import ActivationMismatchError, activation_fingerprint
from timm_layeract.checkpoints.manifest import SMP_CONFIG, WEIGHTS_DIR, read_manifest
from timm_layeract.checkpoints.save import save_pretrained, stored_fingerprint
from timm_layeract.data.augment import normalize
from timm_layeract.data.masks import load_mask_splits
from timm_layeract.data.sources import load_splits
from timm_layeract.data.tiles import Tiles
from timm_layeract.errors import UserError
from timm_layeract.prediction.files import load_segmenter
from timm_layeract.release.shipped import embed_checkpoint


def logits(model: nn.Module, side: int = 32) -> torch.Tensor:
    images = torch.randn(2, 3, side, side, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        return model.eval()(images)


def replace_relu(module: nn.Module, factory: type[nn.Module] | object) -> None:
    """Swap by hand, as a user's own code would, without the package's help."""
    for name, child in module.named_children():
        if isinstance(child, nn.ReLU):
            setattr(module, name, factory())  # type: ignore[operator]
        replace_relu(child, factory)


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("resnet20_lasilu", {}),
        ("resnet20_prelu", {"num_classes": 3, "in_chans": 1, "global_pool": "max"}),
        ("resnet18_lahardsilu", {"num_classes": 5}),
        ("convnext_atto", {"act_layer": "lasilu", "num_classes": 4}),
    ],
)
def test_round_trip(tmp_path: Path, name: str, arguments: dict[str, object]) -> None:
    model = timm.create_model(name, **arguments)
    labels = tuple(f"class {index}" for index in range(model.num_classes))
    assert save_pretrained(model, tmp_path, labels) == name
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.json", "model.safetensors"]
    assert stored_fingerprint(tmp_path) == activation_fingerprint(model)
    loaded = timm.create_model(f"local-dir:{tmp_path}", pretrained=True)
    images = torch.randn(2, model.in_chans, 32, 32)
    with torch.inference_mode():
        assert torch.equal(model.eval()(images), loaded.eval()(images))
    assert tuple(loaded.pretrained_cfg["label_names"]) == labels


def test_saving_again_after_a_new_head(tmp_path: Path) -> None:
    model = timm.create_model("resnet20_lasilu")
    model.reset_classifier(7)
    save_pretrained(model, tmp_path)
    assert timm.create_model(f"local-dir:{tmp_path}", pretrained=True).num_classes == 7


def test_a_swapped_model_is_saved_under_the_name_that_describes_it(tmp_path: Path) -> None:
    model = timm.create_model("resnet18", num_classes=10)
    replace_relu(model, lambda: timm_layeract.LASiLU(alpha=0.1))
    assert save_pretrained(model, tmp_path) == "resnet18_lasilu"
    loaded = timm.create_model(f"local-dir:{tmp_path}", pretrained=True)
    assert torch.equal(logits(timm_layeract.fuse(model)), logits(loaded))


def test_a_swapped_model_that_no_name_describes_is_refused(tmp_path: Path) -> None:
    model = timm.create_model("resnet18", num_classes=10)
    various = itertools.count(1)
    replace_relu(model, lambda: timm_layeract.LASiLU(alpha=0.01 * next(various)))
    with pytest.raises(UserError, match=r"resnet18 would come back with other activations, at 17 site.*act_layer=NAME"):
        save_pretrained(model, tmp_path / "new")
    assert not (tmp_path / "new").exists()
    with pytest.raises(UserError, match=r"not made by timm\.create_model"):
        save_pretrained(nn.Linear(2, 2), tmp_path / "new")


def test_loading_refuses_another_activation(tmp_path: Path) -> None:
    model = timm.create_model("resnet20_lasilu")
    save_pretrained(model, tmp_path)
    with pytest.raises(ActivationMismatchError, match=r"19 site.*LASiLU\(alpha=1e-05\) expected, ReLU\(\) found"):
        timm.create_model(f"local-dir:{tmp_path}", pretrained=True, act_layer="relu")
    # the metadata of the weights speaks even where the config was tampered with
    config = json.loads((tmp_path / "config.json").read_text())
    del config["model_args"]["activations"]
    config["architecture"] = "resnet20_silu"
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ActivationMismatchError, match="SiLU"):
        timm.create_model(f"local-dir:{tmp_path}", pretrained=True)


def test_timms_own_saving_of_our_models_keeps_the_fingerprint(tmp_path: Path) -> None:
    model = timm.create_model("resnet20_lasilu")
    timm.models.save_for_hf(model, tmp_path / "good", safe_serialization=True)
    assert torch.equal(logits(model), logits(timm.create_model(f"local-dir:{tmp_path / 'good'}", pretrained=True)))
    model.layer2[0].act1 = nn.ReLU()
    timm.models.save_for_hf(model, tmp_path / "changed", safe_serialization=True)
    with pytest.raises(ActivationMismatchError, match=r"1 site.*layer2\.0\.act1"):
        timm.create_model(f"local-dir:{tmp_path / 'changed'}", pretrained=True)


def trained_entry(model: str, label_names: list[str], **changes: object) -> dict[str, object]:
    """What a training knows of a network: here, what is published of another."""
    published = read_manifest()["resnet20_lasilu.cifar10"]
    keys = ("started_from", "recipe", "data", "validation", "test", "best_epoch", "train_seconds", "device")
    kept = {key: published[key] for key in (*keys, "processes", "threads", "date", "versions")}
    return {**kept, "model": model, "label_names": label_names, **changes}


def test_embedding_a_checkpoint(tmp_path: Path) -> None:
    model = timm.create_model("resnet32_lahardsilu")
    entry = trained_entry("resnet32_lahardsilu", list("abcdefghij"), test={"top1": 12.5})
    assert embed_checkpoint(model, "mine", entry, tmp_path) == "resnet32_lahardsilu.mine"
    other = trained_entry("resnet20", [])
    assert embed_checkpoint(timm.create_model("resnet20"), "mine", other, tmp_path) == "resnet20.mine"
    manifest = read_manifest(tmp_path)
    assert list(manifest) == ["resnet20.mine", "resnet32_lahardsilu.mine"]
    written = manifest["resnet32_lahardsilu.mine"]
    path = tmp_path / written["file"]
    assert written["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
    assert written["test"] == {"top1": 12.5}
    assert written["pretrained_cfg"]["label_names"] == list("abcdefghij")
    assert written["activations"] == stored_fingerprint(path) == activation_fingerprint(model)
    assert not list(tmp_path.glob("*.partial"))


def test_large_weights_are_embedded_in_half_precision(tmp_path: Path) -> None:
    model = timm.create_model("unet_lasilu")
    embed_checkpoint(model, "mine", trained_entry("unet_lasilu", ["nucleus"], test={"iou": 12.5}), tmp_path)
    entry = read_manifest(tmp_path)["unet_lasilu.mine"]
    path = tmp_path / entry["file"]
    assert entry["bytes"] == path.stat().st_size < 2.1 * entry["parameters"]
    with safe_open(path, framework="pt") as file:
        for key, value in model.state_dict().items():
            stored = file.get_tensor(key)
            assert stored.dtype == (torch.float16 if value.dim() == 4 else value.dtype)
            torch.testing.assert_close(stored.to(value.dtype), value, rtol=1e-3, atol=1e-6)
    loaded = timm.create_model("unet_lasilu", pretrained=True, pretrained_cfg_overlay={"file": str(path)})
    assert {parameter.dtype for parameter in loaded.parameters()} == {torch.float32}


@pytest.mark.parametrize("name", sorted(read_manifest()))
def test_embedded_weights_are_what_the_manifest_says(name: str) -> None:
    entry = read_manifest()[name]
    path = WEIGHTS_DIR / entry["file"]
    assert entry["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
    assert stored_fingerprint(path) == entry["activations"]
    with safe_open(path, framework="pt") as file:
        assert all(bool(torch.isfinite(file.get_tensor(key)).all()) for key in file.keys())  # noqa: SIM118
    model = load_embedded(name)
    assert activation_fingerprint(model) == entry["activations"]
    assert sum(parameter.numel() for parameter in model.parameters()) == entry["parameters"]
    assert model.num_classes == len(entry["pretrained_cfg"]["label_names"])
    if SMP_CONFIG not in entry:
        assert model.pretrained_cfg["tag"] == name.split(".")[1]
        assert list(model.pretrained_cfg["label_names"]) == entry["pretrained_cfg"]["label_names"]
        assert name in timm.list_models(pretrained=True)
    assert set(entry) >= {"recipe", "data", "validation", "test", "versions", "date"}


@pytest.mark.parametrize("name", sorted(name for name in read_manifest() if name.endswith(".cifar10")))
def test_embedded_weights_score_what_the_manifest_says(name: str, cifar10: Path) -> None:
    model = timm.create_model(name, pretrained=True).eval()
    test = load_splits(str(cifar10), (32, 32), progress=False)["test"]
    entry = read_manifest()[name]
    assert test.sha256() == entry["data"]["test_sha256"]
    config = timm.data.resolve_model_data_config(model)
    assert config["input_size"] == (3, 32, 32)
    with torch.inference_mode():
        hits = [
            model(normalize(images, config["mean"], config["std"])).argmax(1) == labels
            for images, labels in zip(test.images.split(500), test.labels.split(500), strict=True)
        ]
    # the run evaluated under its own autocast, this is float32: a few of 10,000 images may fall differently
    assert 100 * float(torch.cat(hits).double().mean()) == pytest.approx(entry["test"]["top1"], abs=0.15)


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(name for name in read_manifest() if name.endswith(".nuclei")))
def test_embedded_segmentation_weights_score_what_the_manifest_says(name: str, nuclei: Path) -> None:
    entry = read_manifest()[name]
    segmenter = load_segmenter(f"{SMP}{name}" if SMP_CONFIG in entry else name)
    test = load_mask_splits(str(nuclei), progress=False)["test"]
    assert test.sha256() == entry["data"]["test_sha256"]
    both, either = mask_overlap(segmenter, test, Tiles(2048, 0))  # whole images
    # evaluated under the run's autocast and before its weights were rounded to float16
    assert 100 * both / either == pytest.approx(entry["test"]["iou"], abs=0.3)


def test_the_untagged_name_loads_the_embedded_weights() -> None:
    model = timm.create_model("resnet20_lasilu", pretrained=True)
    assert model.pretrained_cfg["tag"] == "cifar10"
    assert model.pretrained_cfg["mean"] == (0.4914, 0.4822, 0.4465)
    assert list(model.pretrained_cfg["label_names"])[:2] == ["airplane", "automobile"]
    fresh = timm.create_model("resnet20_lasilu", pretrained=True, num_classes=3, in_chans=1)
    assert fresh(torch.zeros(1, 1, 32, 32)).shape == (1, 3)
    torch.testing.assert_close(fresh.layer1[0].conv1.weight, model.layer1[0].conv1.weight)
    assert timm.get_pretrained_cfg("resnet20_lasilu").tag == "cifar10"


def test_what_people_have_after_training(tmp_path):
    """A compiled network is saved as what it wraps; what no config can describe is refused with the way out."""

    def network():
        return timm.create_model("resnet20_lasilu", pretrained=True).eval()

    images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    save_pretrained(torch.compile(network(), backend="eager"), tmp_path / "compiled")
    loaded = timm.create_model(f"local-dir:{tmp_path / 'compiled'}", pretrained=True).eval()
    with torch.no_grad():
        torch.testing.assert_close(loaded(images), network()(images), rtol=0, atol=0)

    def by_hand(model):
        model.fc = nn.Linear(64, 4)

    def pruned(model):
        prune.l1_unstructured(model.layer1[0].conv1, "weight", 0.5)

    def tied(model):
        model.layer1[1].conv1.weight = model.layer1[2].conv1.weight

    def parametrized(model):
        nn.utils.parametrizations.spectral_norm(model.fc)

    for change, words in (
        (by_hand, r"is not as resnet20_lasilu builds it .*model\.reset_classifier\(CLASSES\)"),
        (pruned, r"layer1\.0\.conv1 has a pruning mask.*prune\.remove"),
        (tied, r"layer1\.1\.conv1\.weight and layer1\.2\.conv1\.weight are one tensor"),
        (parametrized, "fc is parametrized"),
    ):
        model = network()
        change(model)
        with pytest.raises(UserError, match=words):
            save_pretrained(model, tmp_path / change.__name__)
        assert not (tmp_path / change.__name__).exists()
