"""A network of segmentation_models_pytorch on its way to the Hub: embedded, found by name, its card, published."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import segmentation_models_pytorch as smp
import timm
import torch
from huggingface_hub import ModelCard, constants
from safetensors.torch import load, load_file, save_file
from torch import nn

import timm_layeract.smp
from tests.hub_server import TOKEN, HubServer
from tests.snippets import check_answer, run_snippet
from tests.training.test_segmentation import RECIPE, discs
from timm_layeract.checkpoints import load as pretrained
from timm_layeract.checkpoints.fingerprint import activation_fingerprint
from timm_layeract.checkpoints.manifest import check_manifest, read_manifest
from timm_layeract.cli import app
from timm_layeract.errors import UserError
from timm_layeract.release import zoo
from timm_layeract.release.cards import render_card
from timm_layeract.release.embed import embed_runs
from timm_layeract.release.publish import publish
from timm_layeract.release.shipped import golden_file
from timm_layeract.smp import by_name as networks
from timm_layeract.smp.by_name import create_by_name, load_by_name
from timm_layeract.training import run
from timm_layeract.training.options import Execution

ARCH, NAME, TWIN = "unet_lasilu-tu-test_resnet", "unet_lasilu-tu-test_resnet.nuclei", "unet-tu-test_resnet.nuclei"
REPO = "org/unet_lasilu"
# huggingface_hub 2.4 uploads by an argument that httpx2 2.16 calls deprecated
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with the embedded weights and the cards' pictures of two networks after an epoch on drawn discs."""
    folder = tmp_path_factory.mktemp("trained")
    for name, model in ((NAME, "smp:unet_lasilu/tu-test_resnet"), (TWIN, "smp:unet/tu-test_resnet")):
        torch.manual_seed(0)
        output, options = (
            folder / "runs" / name,
            dict(data_name="nuclei", execution=Execution(progress=False, report=lambda _: None)),
        )
        run.train_on(create_by_name(model), RECIPE.replace(epochs=1), discs(9), discs(3, seed=1), output, **options)  # type: ignore[arg-type]
        assert embed_runs([output], "nuclei", folder / "weights", folder / "cards") == name
    return folder


@pytest.fixture
def weights(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the weights, in place of those that ship with the package."""
    copy = Path(shutil.copytree(trained / "weights", tmp_path / "weights"))
    for module in (networks, zoo):
        monkeypatch.setattr(module, "read_manifest", lambda: read_manifest(copy))
    for module in (pretrained, zoo):
        monkeypatch.setattr(module, "WEIGHTS_DIR", copy)
    return copy


def logits(model: nn.Module, inputs: torch.Tensor) -> torch.Tensor:
    with torch.inference_mode():
        return model.eval()(inputs)


def test_the_entry(trained: Path, weights: Path) -> None:
    manifest = read_manifest(weights)
    check_manifest(manifest)
    entry = manifest[NAME]
    assert entry["smp_config"]["_model_class"] == "LayerActUnet"
    assert entry["smp_config"]["encoder_weights"] is None
    assert set(entry["activations"].values()) == {"LASiLU(alpha=0.1)"}
    assert entry["test"] == json.loads((trained / "runs" / NAME / "result.json").read_text())["test"]
    assert not timm.is_model(ARCH)
    assert (
        not smp.Unet("tu-test_resnet", encoder_weights=None)
        .load_state_dict({key: tensor.float() for key, tensor in load_file(weights / entry["file"]).items()})
        .missing_keys
    )


@pytest.mark.parametrize("name", [NAME, f"smp:{NAME}", ARCH])
def test_found_by_name(trained: Path, weights: Path, name: str) -> None:
    golden = load_file(golden_file(NAME, weights))
    model = load_by_name(name)
    torch.testing.assert_close(logits(model, golden["input"]), golden["output"])
    whole = smp.from_pretrained(str(trained / "runs" / NAME / "model"))
    assert torch.equal(logits(whole, golden["input"]), logits(model, golden["input"]))


def test_embedded_weights_are_checked(weights: Path) -> None:
    path = weights / read_manifest(weights)[NAME]["file"]
    path.write_bytes(path.read_bytes()[:-8] + bytes(8))
    with pytest.raises(UserError, match="is not the file that was published"):
        load_by_name(NAME)
    path.unlink()
    with pytest.raises(UserError, match="There is no weight file"):
        load_by_name(NAME)


def test_list_and_info(weights: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    app(["list", "*-*"], standalone_mode=False)
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()[1:]] == [TWIN, NAME]
    app(["info", ARCH], standalone_mode=False)
    assert f'timm_layeract.smp.load_by_name("{NAME}")' in capsys.readouterr().out


def test_the_card_and_its_snippet(
    weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    manifest = read_manifest(weights)
    card = render_card(NAME, manifest, REPO)
    data = ModelCard(card).data
    assert (data.library_name, data.pipeline_tag) == ("segmentation-models-pytorch", "image-segmentation")
    assert {"segmentation-models-pytorch", "timm-layeract", "lasilu"} < set(data.tags)  # type: ignore[arg-type]
    assert f"| {TWIN} | ReLU() | {manifest[TWIN]['test']['iou']:.2f} |" in card
    assert f'segmentation_models_pytorch.from_pretrained("{REPO}")' in card
    assert "layeract train -m smp:unet_lasilu/tu-test_resnet -d FOLDER" in card
    assert f"layeract predict --model smp:{NAME}" in card
    monkeypatch.chdir(tmp_path)
    run_snippet(card)
    check_answer(capsys.readouterr().out, manifest[NAME], tmp_path)


def test_published_and_read_back(
    trained: Path, weights: Path, hub: HubServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "no token"))
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    options: dict[str, Any] = dict(directory=weights, cards=trained / "cards", report=lambda _: None)
    done = publish(NAME, REPO, **options)
    assert done.pinned
    sent = hub.files(REPO)
    assert sorted(sent) == sorted([".gitattributes", *done.files])
    golden = load(sent["golden.safetensors"])
    model = smp.from_pretrained(REPO)
    torch.testing.assert_close(logits(model, golden["input"]), golden["output"], rtol=1e-5, atol=1e-5)
    assert activation_fingerprint(model) == read_manifest(weights)[NAME]["activations"]
    # without the embedded file the pinned revision is read
    (weights / f"{NAME}.safetensors").rename(tmp_path / "kept")
    torch.testing.assert_close(logits(load_by_name(NAME), golden["input"]), golden["output"], rtol=1e-5, atol=1e-5)
    (tmp_path / "kept").rename(weights / f"{NAME}.safetensors")
    hub.calls.clear()
    assert publish(NAME, REPO, **options).revision == done.revision  # the same again
    assert "commit" not in hub.calls
    with pytest.raises(UserError, match=rf"{REPO} holds {NAME}, not {TWIN}"):
        publish(TWIN, REPO, **options)


def test_weights_that_do_not_fit_do_not_go_out(trained: Path, weights: Path) -> None:
    path, entry = weights / f"{NAME}.safetensors", read_manifest(weights)
    tensors = load_file(path)
    del tensors["segmentation_head.0.bias"]
    save_file(tensors, path)
    entry[NAME]["sha256"] = pretrained.file_sha256(path)
    (weights / "manifest.json").write_text(json.dumps(entry))
    with pytest.raises(UserError, match=r"does not fit smp:unet_lasilu/tu-test_resnet: .*segmentation_head\.0\.bias"):
        publish(NAME, REPO, directory=weights, cards=trained / "cards", dry_run=True)


def test_names_of_what_has_none_in_smp() -> None:
    model: Any = timm_layeract.smp.create_model(
        "fpn", decoder_activation="lahardsilu", encoder_name="tu-test_resnet.r160_in1k", encoder_weights=None
    )
    assert model.embedded_name() == "fpn_lahardsilu-tu-test_resnet_r160_in1k"
