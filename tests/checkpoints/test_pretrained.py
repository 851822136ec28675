"""Loading pretrained weights: embedded, from a folder, from a Hub on this machine; and everything that is refused."""

import json
import shutil
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from huggingface_hub import constants
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from tests.damage import DAMAGE, one_bit
from tests.hub_server import CUT, HubServer
from tests.networks import load_embedded
from timm_layeract import save_pretrained
from timm_layeract.checkpoints import load as pretrained
from timm_layeract.checkpoints.fingerprint import ActivationMismatchError
from timm_layeract.checkpoints.manifest import WEIGHTS_DIR, pretrained_cfgs, read_manifest
from timm_layeract.errors import UserError
from timm_layeract.release.shipped import golden_file

NAME = "resnet20_lasilu.cifar10"
REPO = "org/resnet20_lasilu"


def golden() -> dict[str, Tensor]:
    return load_file(golden_file(NAME))


def assert_golden(model: nn.Module) -> None:
    with torch.inference_mode():
        torch.testing.assert_close(model.eval()(golden()["input"]), golden()["output"], rtol=1e-4, atol=1e-4)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The embedded network as a folder in the Hub's layout."""
    save_pretrained(timm.create_model(NAME, pretrained=True), tmp_path / "folder")
    return tmp_path / "folder"


def published(hub: HubServer, folder: Path) -> str:
    return hub.add(REPO, {path.name: path.read_bytes() for path in folder.iterdir()})


def test_embedded_weights_give_the_golden_logits() -> None:
    for name in read_manifest():
        stored = load_file(golden_file(name))
        model = load_embedded(name).eval()
        with torch.inference_mode():
            torch.testing.assert_close(model(stored["input"]), stored["output"], rtol=1e-4, atol=1e-4)


def test_without_the_embedded_file_the_pinned_revision_is_read(
    hub: HubServer, folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    embedded = (WEIGHTS_DIR / f"{NAME}.safetensors").read_bytes()
    revision = hub.add(REPO, {"model.safetensors": embedded})
    hub.repos[REPO].commit({"model.safetensors": b"something newer"})
    known = read_manifest()
    known[NAME]["hub"] = {"repo": REPO, "revision": revision}
    monkeypatch.setattr(pretrained, "read_manifest", lambda: known)
    cfg = pretrained_cfgs("resnet20_lasilu", known, tmp_path / "empty")[NAME]
    assert not pretrained_cfgs("resnet20", known, tmp_path / "empty")  # neither embedded nor published
    assert_golden(timm.create_model("resnet20_lasilu", pretrained=True, pretrained_cfg=cfg))
    # from the cache, without a Hub
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert_golden(timm.create_model("resnet20_lasilu", pretrained=True, pretrained_cfg=cfg))
    known[NAME]["sha256"] = "0" * 64
    with pytest.raises(UserError, match=rf"is not the file that was published.*should be {'0' * 64}"):
        timm.create_model("resnet20_lasilu", pretrained=True, pretrained_cfg=cfg)


def test_hub_and_folder_give_the_same_logits(hub: HubServer, folder: Path) -> None:
    revision = published(hub, folder)
    assert_golden(timm.create_model(f"local-dir:{folder}", pretrained=True))
    assert_golden(timm.create_model(f"hf-hub:{REPO}", pretrained=True))
    assert_golden(timm.create_model(f"hf-hub:{REPO}@{revision}", pretrained=True))
    shutil.rmtree(constants.HF_HUB_CACHE)
    assert timm.create_model(f"hf-hub:{REPO}", pretrained=False).num_classes == 10  # reads the config only
    assert not list(Path(constants.HF_HUB_CACHE).rglob("*.safetensors"))


def test_another_cache_is_used_for_the_check_too(hub: HubServer, folder: Path, tmp_path: Path) -> None:
    published(hub, folder)
    timm.create_model(f"hf-hub:{REPO}", pretrained=True, cache_dir=tmp_path / "other")
    assert not Path(constants.HF_HUB_CACHE).exists()


def test_offline_the_cache_serves(hub: HubServer, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    published(hub, folder)
    timm.create_model(f"hf-hub:{REPO}", pretrained=True)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert_golden(timm.create_model(f"hf-hub:{REPO}", pretrained=True))


@pytest.mark.skipif(int(version("huggingface-hub").split(".")[0]) < 1, reason="it resumes downloads since 1.0")
def test_a_cut_download_is_resumed(hub: HubServer, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 2**16)  # what is written at once
    published(hub, folder)
    timm.create_model(f"hf-hub:{REPO}", pretrained=False)
    hub.cut_downloads_at = 400_000
    assert_golden(timm.create_model(f"hf-hub:{REPO}", pretrained=True))
    resumed = [headers["Range"] for headers in hub.headers if "Range" in headers]
    assert len(resumed) == 1
    assert 0 < int(resumed[0].removeprefix("bytes=").removesuffix("-")) <= 400_000


@pytest.mark.parametrize(("damage", "said"), DAMAGE)
@pytest.mark.parametrize("place", ["local-dir", "hf-hub"])
def test_damaged_weights_are_refused(hub: HubServer, folder: Path, damage: Any, said: str, place: str) -> None:
    damage(folder / "model.safetensors")
    published(hub, folder)
    with pytest.raises(UserError, match=said):
        timm.create_model(f"local-dir:{folder}" if place == "local-dir" else f"hf-hub:{REPO}", pretrained=True)


def test_weights_changed_in_the_cache_are_refused(hub: HubServer, folder: Path) -> None:
    published(hub, folder)
    timm.create_model(f"hf-hub:{REPO}", pretrained=True)
    (blob,) = Path(constants.HF_HUB_CACHE).rglob("model.safetensors")
    one_bit(blob.resolve())
    with pytest.raises(UserError, match=r"is not the file that was published.*delete it and get it again"):
        timm.create_model(f"hf-hub:{REPO}", pretrained=True)


def test_embedded_weights_that_were_changed_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    copy = shutil.copy(WEIGHTS_DIR / f"{NAME}.safetensors", tmp_path)
    monkeypatch.setattr(pretrained, "WEIGHTS_DIR", tmp_path)
    overlay = {"file": str(copy)}
    timm.create_model("resnet20_lasilu", pretrained=True, pretrained_cfg_overlay=overlay)
    one_bit(Path(copy))
    with pytest.raises(UserError, match="reinstall the package"):
        timm.create_model("resnet20_lasilu", pretrained=True, pretrained_cfg_overlay=overlay)


@pytest.mark.parametrize("place", ["file", "local-dir", "hf-hub", "hf-hub filename"])
def test_pickled_weights_are_refused(hub: HubServer, folder: Path, place: str) -> None:
    model = timm.create_model(NAME, pretrained=True)
    (folder / "model.safetensors").unlink()
    torch.save(model.state_dict(), folder / "pytorch_model.bin")
    published(hub, folder)
    overlays = {
        "file": {"file": str(folder / "pytorch_model.bin")},
        "hf-hub filename": {"file": None, "hf_hub_id": REPO, "hf_hub_filename": "pytorch_model.bin"},
    }
    names = {"local-dir": f"local-dir:{folder}", "hf-hub": f"hf-hub:{REPO}"}
    with pytest.raises(UserError, match=r"(?s)pickle.*can run code when they are loaded.*layeract convert"):
        timm.create_model(
            names.get(place, "resnet20_lasilu"), pretrained=True, pretrained_cfg_overlay=overlays.get(place)
        )


@pytest.mark.parametrize("place", ["local-dir", "hf-hub"])
def test_a_fingerprint_that_differs_is_refused(hub: HubServer, folder: Path, place: str) -> None:
    config = json.loads((folder / "config.json").read_text())
    config["architecture"] = "resnet20_silu"
    del config["model_args"]["activations"]  # the weight file still tells
    (folder / "config.json").write_text(json.dumps(config))
    published(hub, folder)
    with pytest.raises(ActivationMismatchError, match=r"19 site.*LASiLU\(alpha=1e-05\) expected, SiLU\(\) found"):
        timm.create_model(f"local-dir:{folder}" if place == "local-dir" else f"hf-hub:{REPO}", pretrained=True)


@pytest.mark.parametrize("record", ["no json", "[1]", '{"act1": 1}', "null"])
def test_a_damaged_fingerprint_is_refused(folder: Path, record: str) -> None:
    weights = folder / "model.safetensors"
    save_file(load_file(weights), weights, metadata={"activations": record})
    with pytest.raises(UserError, match=r"record of activations that cannot be read"):
        timm.create_model("resnet20_lasilu", pretrained=True, pretrained_cfg_overlay={"file": str(_alone(weights))})


def _alone(weights: Path) -> Path:
    """Away from its config.json."""
    return Path(shutil.copy(weights, weights.parent.parent))


def test_what_is_not_there_is_said(hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def load(repo: str) -> None:
        overlay = {"file": None, "hf_hub_id": repo, "hf_hub_filename": "model.safetensors"}
        timm.create_model("resnet20_lasilu", pretrained=True, pretrained_cfg_overlay=overlay)

    hub.add(REPO, {"other.txt": b""})
    with pytest.raises(UserError, match="no such repository, or it is private"):
        load("org/nothing")
    with pytest.raises(UserError, match="no such revision"):
        load(f"{REPO}@gone")
    with pytest.raises(UserError, match=r"has no model\.safetensors.*pickles"):
        load(REPO)
    hub.fail["download"] = 500
    with pytest.raises(UserError, match="the Hub answered 500"):
        load(REPO)
    hub.fail["download"] = CUT
    with pytest.raises(UserError, match=r"cannot be reached.*HF_HUB_OFFLINE"):
        load(REPO)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match=r"cannot be reached.*HF_HUB_OFFLINE"):
        load(REPO)
    with pytest.raises(UserError, match=r"There is no model\.safetensors in"):
        pretrained.verified_weights({"source": "local-dir", "file": str(tmp_path)})
    with pytest.raises(UserError, match="There is no weight file"):
        pretrained.verified_weights({"file": str(tmp_path / "gone.safetensors")})


@pytest.mark.parametrize(
    ("name", "command"),
    [
        ("resnet101_lasilu", "layeract adapt resnet101.a1h_in1k --to lasilu --data FOLDER --output RUN"),
        ("wide_resnet50_2_lahardsilu", "layeract adapt wide_resnet50_2.racm_in1k --to lahardsilu --data FOLDER"),
        ("resnet110_lasilu", "layeract train --model resnet110_lasilu --data FOLDER --output RUN"),
    ],
)
def test_a_network_without_weights_says_how_to_come_by_some(name: str, command: str) -> None:
    with pytest.raises(UserError, match=f"{name} has no trained weights") as refused:
        timm.create_model(name, pretrained=True)
    assert command in str(refused.value)
    assert "trained are resnet20, " in str(refused.value)
    assert len(str(refused.value)) < 400
