"""A segmentation network on its way to the Hub: embedded with its picture, listed, its card, published, read back."""

import importlib.util
import json
import shutil
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import yaml
from huggingface_hub import ModelCard, constants
from PIL import Image
from safetensors.torch import load, load_file, save_file

from tests.hub_server import TOKEN, HubServer
from tests.snippets import check_answer, run_snippet
from tests.training.test_segmentation import RECIPE, discs
from timm_layeract.checkpoints import load as pretrained
from timm_layeract.checkpoints.manifest import Manifest, check_manifest, read_manifest, write_manifest
from timm_layeract.checkpoints.save import file_sha256
from timm_layeract.cli import app
from timm_layeract.errors import UserError
from timm_layeract.prediction.files import load_segmenter
from timm_layeract.release import zoo
from timm_layeract.release.cards import card_files, pictures, render_card, render_eval_results
from timm_layeract.release.embed import embed_runs
from timm_layeract.release.publish import publish
from timm_layeract.release.shipped import GOLDEN_SIDE, golden_file
from timm_layeract.training import run
from timm_layeract.training.options import Execution

NAME, TWIN, REPO = "unet_lasilu.nuclei", "unet.nuclei", "org/unet_lasilu.nuclei"
# huggingface_hub 2.4 uploads by an argument that httpx2 2.16 calls deprecated
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with the embedded weights and the card's picture of a network after an epoch on drawn discs."""
    folder = tmp_path_factory.mktemp("trained")
    output, recipe = folder / "runs" / NAME, RECIPE.replace(epochs=1, image_size=[16, 16])
    torch.manual_seed(0)
    options: dict[str, Any] = dict(data_name="nuclei", execution=Execution(progress=False, report=lambda _: None))
    run.train_on(timm.create_model("unet_lasilu"), recipe, discs(9), discs(3, seed=1), output, **options)
    assert embed_runs([output], "nuclei", folder / "weights", folder / "cards") == NAME
    return folder


@pytest.fixture
def manifest(trained: Path) -> Manifest:
    """Of the network, and of one with ReLU that was trained alike."""
    manifest = read_manifest(trained / "weights")
    twin = deepcopy(manifest[NAME])
    twin.update(model="unet", activations=dict.fromkeys(twin["activations"], "ReLU()"))
    twin.update(test={"loss": 0.5, "iou": 81.234, "dice": 90.123, "images": 3}, validation={"iou": 82.0, "dice": 91.0})
    del twin["picture"]
    return {**manifest, TWIN: twin}


@pytest.fixture
def copied(trained: Path, tmp_path: Path) -> Path:
    """A copy of the folder, to be changed."""
    return Path(shutil.copytree(trained, tmp_path / "copy"))


def test_the_entry_and_its_files(trained: Path, manifest: Manifest) -> None:
    check_manifest(manifest)
    entry = manifest[NAME]
    result = json.loads((trained / "runs" / NAME / "result.json").read_text())
    assert entry["test"] == result["test"]
    assert {"iou", "dice"} < set(entry["test"])
    assert (entry["dtype"], entry["pretrained_cfg"]["label_names"]) == ("float16", ["foreground"])
    picture = trained / "cards" / entry["picture"]["file"]
    assert picture.name == f"{NAME}.png"
    assert picture.read_bytes() == (trained / "runs" / NAME / "examples.png").read_bytes()
    assert pictures(manifest)[picture.name] == file_sha256(picture)
    golden = load_file(golden_file(NAME, trained / "weights"))
    assert golden["input"].shape == (2, 3, GOLDEN_SIDE, GOLDEN_SIDE)
    assert golden["output"].shape == (2, 1, GOLDEN_SIDE, GOLDEN_SIDE)


def test_a_run_without_test_images_does_not_ship(copied: Path) -> None:
    path = copied / "runs" / NAME / "result.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "test": None}))
    with pytest.raises(UserError, match="has no test figures"):
        embed_runs([path.parent], "again", copied / "weights", copied / "cards")
    assert f"{NAME.split('.')[0]}.again" not in read_manifest(copied / "weights")


def test_the_card(manifest: Manifest) -> None:
    card = render_card(NAME, manifest)
    data = ModelCard(card).data
    assert (data.library_name, data.pipeline_tag) == ("timm", "image-segmentation")
    assert data.datasets is None  # the images are on no Hub
    test = manifest[NAME]["test"]
    wanted = {"iou": test["iou"], "dice": test["dice"]}
    assert data.metrics == list(wanted)
    assert {each.metric_type: each.metric_value for each in data.eval_results} == {
        key: pytest.approx(value, abs=0.005) for key, value in wanted.items()
    }
    assert {(each.dataset_name, each.dataset_split) for each in data.eval_results} == {("nuclei", "validation")}
    assert f"![images, true masks, predicted masks]({NAME}.png)" in card
    assert "| network | activation | test IoU | test Dice | held-out IoU | held-out Dice |" in card
    twin = manifest[TWIN]
    figures = [twin[part][key] for part in ("test", "validation") for key in ("iou", "dice")]
    assert f"| {TWIN} | ReLU() | {' | '.join(f'{each:.2f}' for each in figures)} |" in card
    assert "layeract train -m unet_lasilu -d FOLDER -r segmentation_fast" in card
    assert "Top-1" not in card
    assert "CC0-1.0" in card


def test_results_on_a_data_set_of_the_hub(manifest: Manifest, monkeypatch: pytest.MonkeyPatch) -> None:
    assert render_eval_results(NAME, manifest) is None
    assert set(card_files(manifest)) == {f"{NAME}.md", f"{TWIN}.md"}
    manifest[NAME]["data"]["name"] = "Tiny-ImageNet"  # any that is there
    both = yaml.safe_load(render_eval_results(NAME, manifest))  # type: ignore[arg-type]
    assert [each["dataset"]["task_id"] for each in both] == ["image-segmentation"] * 2
    assert [each["value"] for each in both] == [round(manifest[NAME]["test"][key], 2) for key in ("iou", "dice")]
    assert both[0]["notes"].startswith("Intersection over union (%), valid split, 3 images.")


def test_list_and_info(
    trained: Path, manifest: Manifest, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(zoo, "read_manifest", lambda: manifest)
    for module in (zoo, pretrained):
        monkeypatch.setattr(module, "WEIGHTS_DIR", trained / "weights")
    monkeypatch.setenv("COLUMNS", "200")
    test = manifest[NAME]["test"]
    app(["list"], standalone_mode=False)
    row = next(line for line in capsys.readouterr().out.splitlines() if line.startswith(NAME))
    assert row.split()[:5] == [NAME, "nuclei", f"{test['iou']:.2f}", "%", "IoU"]
    app(["info", "unet_lasilu"], standalone_mode=False)
    assert f"{test['iou']:.2f} % IoU, {test['dice']:.2f} % Dice" in capsys.readouterr().out
    app(["download", NAME], standalone_mode=False)
    assert capsys.readouterr().out.strip() == str(trained / "weights" / f"{NAME}.safetensors")


def test_published_and_read_back(
    copied: Path, hub: HubServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "no token"))
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    done = publish(NAME, REPO, directory=copied / "weights", cards=copied / "cards", report=lambda _: None)
    assert done.pinned
    sent = hub.files(REPO)
    assert sorted(sent) == sorted([".gitattributes", *done.files])
    assert sent[f"{NAME}.png"] == (copied / "cards" / f"{NAME}.png").read_bytes()
    assert sent["README.md"].decode() == render_card(NAME, read_manifest(copied / "weights"))
    assert f"({NAME}.png)" in sent["README.md"].decode()
    golden = load(sent["golden.safetensors"])
    loaded = timm.create_model(f"hf-hub:{REPO}", pretrained=True).eval()
    with torch.inference_mode():
        torch.testing.assert_close(loaded(golden["input"]), golden["output"], rtol=1e-4, atol=1e-4)
        # the run's own weights, before they were halved
        whole = timm.create_model(f"local-dir:{copied / 'runs' / NAME / 'model'}", pretrained=True).eval()
        torch.testing.assert_close(loaded(golden["input"]), whole(golden["input"]), rtol=0.02, atol=0.02)
    assert load_segmenter(f"hf-hub:{REPO}").stride == 16
    monkeypatch.chdir(tmp_path)
    run_snippet(sent["README.md"].decode(), **{f'"{NAME}"': f'"hf-hub:{REPO}"'})
    check_answer(capsys.readouterr().out, read_manifest(copied / "weights")[NAME], tmp_path)


def test_another_picture_does_not_go_out(copied: Path) -> None:
    picture = copied / "cards" / f"{NAME}.png"
    Image.new("RGB", (8, 8)).save(picture)
    options: dict[str, Any] = dict(directory=copied / "weights", cards=copied / "cards", dry_run=True)
    with pytest.raises(UserError, match=rf"{NAME}\.png is not the picture that was embedded"):
        publish(NAME, REPO, **options)
    picture.unlink()
    with pytest.raises(UserError, match=rf"{NAME}\.png is not the picture that was embedded"):
        publish(NAME, REPO, **options)


def test_wrong_masks_do_not_go_out(copied: Path) -> None:
    """The golden output of a dense network is compared pixel by pixel."""
    manifest = read_manifest(copied / "weights")
    golden = golden_file(NAME, copied / "weights")
    tensors = load_file(golden)
    tensors["output"][1, 0, 5, 7] += 0.1  # one pixel
    save_file(tensors, golden)
    with pytest.raises(UserError, match="gives other logits than were recorded"):
        publish(NAME, REPO, directory=copied / "weights", cards=copied / "cards", dry_run=True)
    manifest[NAME]["test"] = {"loss": 0.5}
    write_manifest(manifest, copied / "weights")
    with pytest.raises(UserError, match=rf"{NAME} -> test"):
        publish(NAME, REPO, directory=copied / "weights", cards=copied / "cards", dry_run=True)


def test_the_script_keeps_and_checks_pictures(
    copied: Path, manifest: Manifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = importlib.util.spec_from_file_location("cards", Path(__file__).parents[2] / "scripts" / "cards.py")
    script = importlib.util.module_from_spec(spec)  # type: ignore[arg-type]
    spec.loader.exec_module(script)  # type: ignore[union-attr]
    cards = copied / "cards"
    monkeypatch.setattr(script, "FOLDER", cards)
    monkeypatch.setattr(script, "read_manifest", lambda: manifest)
    monkeypatch.setattr("sys.argv", ["cards.py"])
    (cards / "left over.png").touch()
    script.main()
    assert {path.name for path in cards.iterdir()} == {*card_files(manifest), *pictures(manifest)}
    monkeypatch.setattr("sys.argv", ["cards.py", "--check"])
    with pytest.raises(SystemExit) as fine:
        script.main()
    assert fine.value.code is None
    (cards / f"{NAME}.png").write_bytes(b"another")
    with pytest.raises(SystemExit, match=rf"lacks the pictures {NAME}\.png as they were embedded"):
        script.main()
