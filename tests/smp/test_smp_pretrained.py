"""`smp.from_pretrained` of networks of ours, from a folder and from a Hub on this machine; everything it refuses."""

import json
import shutil
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import segmentation_models_pytorch as smp
import timm
import torch
from huggingface_hub import constants
from huggingface_hub.errors import LocalEntryNotFoundError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from tests.damage import DAMAGE, one_bit
from tests.hub_server import HubServer
from timm_layeract import save_pretrained
from timm_layeract.checkpoints import load as pretrained
from timm_layeract.checkpoints.fingerprint import ActivationMismatchError
from timm_layeract.checkpoints.manifest import read_manifest
from timm_layeract.checkpoints.save import file_sha256
from timm_layeract.errors import UserError

REPO = "org/unet_lasilu"
PLACES = ["folder", "hub"]

BEFORE_1 = pytest.mark.skipif(int(version("huggingface-hub").split(".")[0]) < 1, reason="huggingface_hub 1.0 and later")


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> tuple[nn.Module, Path]:
    """A small network, and the folder that it was saved to."""
    torch.manual_seed(0)
    options: dict[str, Any] = dict(encoder_depth=3, decoder_channels=(32, 16, 16), encoder_weights=None)
    model = smp.create_model("unet_lasilu", "tu-test_resnet", **options).eval()
    path = tmp_path_factory.mktemp("smp") / "saved"
    model.save_pretrained(path)
    return model, path


@pytest.fixture
def folder(saved: tuple[nn.Module, Path], tmp_path: Path) -> Path:
    """A copy of the folder, to be damaged."""
    return Path(shutil.copytree(saved[1], tmp_path / "folder"))


def published(hub: HubServer, folder: Path) -> str:
    return hub.add(REPO, {path.name: path.read_bytes() for path in folder.iterdir()})


def load(place: str, hub: HubServer, folder: Path, **options: Any) -> nn.Module:
    if place == "hub":
        published(hub, folder)
    return smp.from_pretrained(str(folder) if place == "folder" else REPO, **options)


def logits(model: nn.Module) -> Tensor:
    images = torch.randn(2, 3, 32, 48, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        return model.eval()(images)


def test_the_config_holds_the_hash_of_the_weights(saved: tuple[nn.Module, Path]) -> None:
    config = json.loads((saved[1] / "config.json").read_text())
    assert config["weights_sha256"] == file_sha256(saved[1] / "model.safetensors")
    assert "weights_sha256" not in smp.from_pretrained(str(saved[1])).config  # which says how to build it
    assert "weights_sha256" not in (saved[1] / "README.md").read_text()


@pytest.mark.parametrize("place", PLACES)
def test_the_same_logits(hub: HubServer, saved: tuple[nn.Module, Path], place: str) -> None:
    assert torch.equal(logits(load(place, hub, saved[1])), logits(saved[0]))


def test_revision_offline_and_pinned_hash(
    hub: HubServer, saved: tuple[nn.Module, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    revision = published(hub, saved[1])
    hub.repos[REPO].commit({"model.safetensors": b"something newer"})
    assert torch.equal(logits(smp.from_pretrained(REPO, revision=revision)), logits(saved[0]))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert torch.equal(logits(smp.from_pretrained(REPO, revision=revision)), logits(saved[0]))
    known = {"unet.pinned": {"hub": {"repo": REPO, "revision": revision}, "sha256": "0" * 64}}
    monkeypatch.setattr(pretrained, "read_manifest", lambda: {**read_manifest(), **known})
    with pytest.raises(UserError, match=rf"is not the file that was published.*should be {'0' * 64}"):
        smp.from_pretrained(REPO, revision=revision)


@BEFORE_1
def test_another_cache_and_an_empty_one(
    hub: HubServer, saved: tuple[nn.Module, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    published(hub, saved[1])
    smp.LayerActUnet.from_pretrained(REPO, cache_dir=tmp_path / "other")
    assert not Path(constants.HF_HUB_CACHE).exists()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    smp.LayerActUnet.from_pretrained(REPO, cache_dir=tmp_path / "other")
    with pytest.raises(LocalEntryNotFoundError):  # SMP reads its config first
        smp.from_pretrained(REPO)


@BEFORE_1
def test_a_cut_download_is_resumed(
    hub: HubServer, saved: tuple[nn.Module, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 2**16)  # what is written at once
    published(hub, saved[1])
    hub.cut_downloads_at = 300_000  # the config is shorter
    assert torch.equal(logits(smp.from_pretrained(REPO)), logits(saved[0]))
    assert any("Range" in headers for headers in hub.headers)


@pytest.mark.parametrize(("damage", "said"), DAMAGE)
@pytest.mark.parametrize("place", PLACES)
def test_damaged_weights_are_refused(hub: HubServer, folder: Path, damage: Any, said: str, place: str) -> None:
    damage(folder / "model.safetensors")
    with pytest.raises(UserError, match=said):
        load(place, hub, folder)


def test_weights_changed_in_the_cache_are_refused(hub: HubServer, folder: Path) -> None:
    load("hub", hub, folder)
    (blob,) = Path(constants.HF_HUB_CACHE).rglob("model.safetensors")
    one_bit(blob.resolve())
    with pytest.raises(UserError, match=r"is not the file that was published.*delete it and get it again"):
        smp.from_pretrained(REPO)


@pytest.mark.parametrize("place", PLACES)
def test_pickled_weights_are_refused(hub: HubServer, folder: Path, place: str) -> None:
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    with pytest.raises(UserError, match=r"pickle.*can run code when they are loaded.*its save_pretrained\(FOLDER\)"):
        load(place, hub, folder)


def test_the_way_out_of_a_pickle_works(saved: tuple[nn.Module, Path], folder: Path, tmp_path: Path) -> None:
    file = tmp_path / "pytorch_model.bin"
    torch.save(saved[0].state_dict(), file)
    config = {key: value for key, value in saved[0].config.items() if not key.startswith("_")}  # type: ignore[union-attr]
    model = smp.LayerActUnet(**config)
    model.load_state_dict(torch.load(file, weights_only=True))
    model.save_pretrained(tmp_path / "again")
    assert torch.equal(logits(smp.from_pretrained(str(tmp_path / "again"))), logits(saved[0]))


@pytest.mark.parametrize("place", PLACES)
def test_a_fingerprint_that_differs_is_refused(hub: HubServer, folder: Path, place: str) -> None:
    config = json.loads((folder / "config.json").read_text())
    config["decoder_activation"] = None
    del config["activations"]  # the weight file still tells
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ActivationMismatchError, match=r"LASiLU\(alpha=0\.1\) expected, ReLU"):
        load(place, hub, folder)


@pytest.mark.parametrize("record", ["no json", "[1]", '{"act1": 1}'])
def test_a_damaged_fingerprint_is_refused(folder: Path, record: str) -> None:
    weights = folder / "model.safetensors"
    save_file(load_file(weights), weights, metadata={"activations": record})
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "weights_sha256": file_sha256(weights)}))
    with pytest.raises(UserError, match=r"record of activations that cannot be read"):
        smp.from_pretrained(str(folder))


def test_a_missing_tensor_is_refused_by_the_class_too(folder: Path) -> None:
    """huggingface_hub's own default would leave it as it was initialised."""
    weights = folder / "model.safetensors"
    tensors = load_file(weights)
    del tensors["segmentation_head.0.bias"]
    save_file(tensors, weights)
    (folder / "config.json").write_text((folder / "config.json").read_text().replace("weights_sha256", "_hash"))
    with pytest.raises(RuntimeError, match=r"segmentation_head\.0\.bias"):
        smp.LayerActUnet.from_pretrained(folder)


def test_weights_of_an_encoder_of_ours_are_checked(tmp_path: Path) -> None:
    model = timm.create_model("resnet18_lasilu")
    save_pretrained(model, tmp_path)
    overlay = {"file": str(tmp_path / "model.safetensors")}
    options: dict[str, Any] = dict(encoder_weights=True, pretrained_cfg_overlay=overlay)
    encoder = smp.Unet("tu-resnet18_lasilu", **options).encoder.model
    assert torch.equal(encoder.layer4[1].conv2.weight, model.layer4[1].conv2.weight)  # type: ignore[union-attr,index]
    with pytest.raises(ActivationMismatchError):
        smp.Unet("tu-resnet18_lahardsilu", **options)
    one_bit(tmp_path / "model.safetensors")
    with pytest.raises(UserError, match="is not the file that was published"):
        smp.Unet("tu-resnet18_lasilu", **options)


@pytest.mark.parametrize(
    ("name", "depth"), [("resnet20_lasilu.cifar10", 2), ("unet_lasilu.nuclei", 4), ("resnet50_lasilu.tin200", 5)]
)
def test_weights_that_ship_are_encoders(name: str, depth: int) -> None:
    """As deep as they halve their input; the features are those of timm's network."""
    widths = (64, 32, 16, 16, 8)[:depth]
    model = smp.Unet(f"tu-{name}", encoder_weights=True, encoder_depth=depth, decoder_channels=widths).eval()
    x = torch.randn(1, 3, 64, 96, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = timm.create_model(name, pretrained=True).eval().forward_intermediates(x, intermediates_only=True)
        found = model.encoder(x)
        torch.testing.assert_close(found[-len(expected) :], expected)
        assert [x.shape[-1] // each.shape[-1] for each in found] == [2**level for level in range(depth + 1)]
        assert model(x).shape == (1, 1, 64, 96)


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("resnet20_lasilu", "features at the strides 1, 2, 4, by out_indices 0 to 2; .* it takes encoder_depth=2"),
        ("unet_lasilu", "it takes encoder_depth=4, with as many decoder_channels"),
        ("lenet5_lasilu", "encoder_depth=1"),
        ("mlp512x1_lasilu", "has no feature maps"),
    ],
)
def test_an_encoder_that_is_not_deep_enough_says_so(name: str, says: str) -> None:
    with pytest.raises(UserError, match=says):
        smp.FPN(f"tu-{name}", encoder_weights=None)
