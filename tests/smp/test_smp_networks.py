"""SMP's networks by name: made, trained by the engine, loaded again, given another activation."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import segmentation_models_pytorch as smp
import torch
from PIL import Image

from timm_layeract.adaptation import adapt
from timm_layeract.checkpoints.fingerprint import activation_fingerprint
from timm_layeract.errors import UserError
from timm_layeract.prediction.files import load_segmenter, predict_files
from timm_layeract.smp.by_name import create_by_name, like_timm, load_by_name, with_activation
from timm_layeract.training import run
from timm_layeract.training.options import Execution
from timm_layeract.training.recipe import Recipe
from timm_layeract.training.start import Start

RECIPE = Recipe(task="segmentation", epochs=1, batch_size=4, image_size=(32, 32), padding=0, lr=0.01)
QUIET = Execution(progress=False, report=lambda _: None)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Images and masks of bright squares."""
    rng = np.random.default_rng(0)
    for part in ("images", "masks"):
        (tmp_path / "data" / part).mkdir(parents=True)
    for index in range(8):
        image, mask = rng.integers(0, 90, (36, 44, 3), dtype=np.uint8), np.zeros((36, 44), np.uint8)
        row, column = rng.integers(0, 20, 2)
        mask[row : row + 14, column : column + 18] = 255
        image[mask > 0] += 130
        Image.fromarray(image).save(tmp_path / "data" / "images" / f"{index}.png")
        Image.fromarray(mask).save(tmp_path / "data" / "masks" / f"{index}.png")
    return tmp_path / "data"


def test_a_network_of_smp_trains_and_comes_back(folder: Path, tmp_path: Path) -> None:
    name = "smp:unetplusplus_lasilu/resnet18_lasilu"
    result = run.train(
        name, RECIPE, str(folder), tmp_path / "run", execution=Execution(progress=False, report=lambda _: None)
    )
    assert result["model"] == name
    model = load_by_name(f"smp:{tmp_path / 'run' / 'model'}")
    assert type(model).__name__ == "LayerActUnetPlusPlus"
    assert activation_fingerprint(model) == result["activations"]
    assert set(result["activations"].values()) == {"LASiLU(alpha=0.1)"}
    segmenter = load_segmenter(f"smp:{tmp_path / 'run' / 'model'}")
    assert (segmenter.stride, segmenter.mean) == (32, (0.485, 0.456, 0.406))
    # the run is resumed as it was begun, and refused as another network
    with pytest.raises(UserError, match=r"another run \(model: smp:unetplusplus_lasilu"):
        run.train(
            "smp:unet/resnet18", RECIPE, str(folder), tmp_path / "run", execution=Execution(resume=True, progress=False)
        )


@pytest.mark.parametrize(
    ("encoder", "alpha"), [("resnet18", "0.1"), ("resnet18_lahardsilu", "0.1"), ("vgg11", "1e-05")]
)
def test_another_activation_takes_the_same_weights(encoder: str, alpha: str) -> None:
    torch.manual_seed(0)
    model = create_by_name(f"smp:unet/{encoder}").eval()
    changed = with_activation(model, "lasilu").eval()
    assert {key: tuple(t.shape) for key, t in changed.state_dict().items()} == {
        key: tuple(t.shape) for key, t in model.state_dict().items()
    }
    assert all(torch.equal(a, b) for a, b in zip(changed.parameters(), model.parameters(), strict=True))
    encoder_sites = {v for site, v in activation_fingerprint(changed).items() if site.startswith("encoder")}
    assert encoder_sites == {f"LASiLU(alpha={alpha})"}


def test_names_that_are_none_are_refused(tmp_path: Path) -> None:
    for name, message in (
        ("smp:unet", "smp:ARCHITECTURE/ENCODER"),
        ("smp:unett/resnet18", "no architecture 'unett'; did you mean 'unet'"),
        ("smp:unet/resnet81", "no encoder 'resnet81'; did you mean"),
    ):
        with pytest.raises(UserError, match=message):
            create_by_name(name)
    for name, message in (
        (f"smp:{tmp_path}", "no config.json"),
        ("smp:nobody/nothing", "cannot be loaded: it is not in the cache"),
        ("smp:a/b/c", "There is no folder a/b/c"),
    ):
        with pytest.raises(UserError, match=message):
            load_by_name(name)
    with pytest.raises(UserError, match="parameters of its own"):
        with_activation(smp.Unet("resnet18", encoder_weights=None), "nrelu")


HEADS = {
    "sigmoid": dict(activation="sigmoid"),
    "softmax": dict(activation="softmax", classes=3),
    "log-softmax": dict(activation="logsoftmax", classes=3),
    "a classification head": dict(aux_params=dict(classes=2)),
}


def twins(kind: str, name: str = "Unet") -> tuple[smp.Unet, smp.Unet]:
    """The same weights, with something at the end and without."""
    torch.manual_seed(0)
    ending: dict = HEADS[kind]
    whole = getattr(smp, name)("resnet18", encoder_weights=None, **ending)
    plain = getattr(smp, name)("resnet18", encoder_weights=None, classes=ending.get("classes", 1))
    plain.load_state_dict({key: value for key, value in whole.state_dict().items() if key in plain.state_dict()})
    return whole.eval(), plain.eval()


@pytest.mark.parametrize("kind", HEADS)
@pytest.mark.parametrize("name", ["Unet", "LayerActUnet"])
def test_what_stands_behind_the_logits_is_left_off(kind: str, name: str, folder: Path, tmp_path: Path) -> None:
    images = sorted((folder / "images").iterdir())[:2]
    for called, model in zip(("whole", "plain"), twins(kind, name), strict=True):
        model.save_pretrained(tmp_path / called)
        failed = predict_files(
            f"smp:{tmp_path / called}", images, tmp_path / f"{called}_out", progress=False, report=lambda _: None
        )
        assert not failed
    for path in (tmp_path / "plain_out").glob("*.mask.png"):
        assert path.read_bytes() == (tmp_path / "whole_out" / path.name).read_bytes()
    x = torch.randn(1, 3, 32, 32)
    loaded, plain = (load_by_name(f"smp:{tmp_path / called}") for called in ("whole", "plain"))
    torch.testing.assert_close(loaded(x), plain(x))
    loaded.save_pretrained(tmp_path / "again")
    torch.testing.assert_close(smp.from_pretrained(tmp_path / "again").eval()(x), plain(x))


def test_a_sigmoid_is_left_off_in_fine_tuning_and_adaptation(folder: Path, tmp_path: Path) -> None:
    whole, plain = twins("sigmoid")
    for called, model in (("whole", whole), ("plain", plain)):
        model.save_pretrained(tmp_path / called)
        start = Start(f"smp:{tmp_path / called}", pretrained=True)
        run.train(start, replace(RECIPE, lr=0.001), str(folder), tmp_path / f"{called}_run", execution=QUIET)
    logs = [(tmp_path / f"{called}_run" / "log.jsonl").read_text() for called in ("whole", "plain")]
    assert logs[0] == logs[1]
    before = whole(torch.ones(1, 3, 32, 32))
    adapted = adapt(
        whole, "lasilu", data=str(folder), epochs=1, batch_size=4, image_size=[32, 32], progress=False,
        report=lambda _: None, statistics_batches=1,
    )  # fmt: skip
    assert float(adapted(torch.ones(1, 3, 32, 32)).detach().min()) < 0  # logits
    torch.testing.assert_close(whole(torch.ones(1, 3, 32, 32)), before)  # and the original has its sigmoid


@pytest.mark.parametrize(
    "ending", [dict(activation="sigmoid", classes=3), dict(activation="tanh"), dict(activation="softmax2d")]
)
def test_an_activation_without_logits_is_refused(ending: dict) -> None:
    with pytest.raises(UserError, match=r"ends in \w+ over \d class\(es\)"):
        like_timm(smp.Unet("resnet18", encoder_weights=None, **ending))


def test_images_of_any_size_suit_pan(tmp_path: Path) -> None:
    create_by_name("smp:pan/resnet18").save_pretrained(tmp_path / "model")
    for height, width in ((1, 1), (40, 64), (130, 20)):
        Image.fromarray(np.zeros((height, width, 3), np.uint8)).save(tmp_path / f"{height}.png")
    images = sorted(tmp_path.glob("*.png"))
    assert not predict_files(
        f"smp:{tmp_path / 'model'}", images, tmp_path / "out", progress=False, report=lambda _: None
    )


@pytest.mark.parametrize(
    ("name", "changes", "says"),
    [
        ("smp:pan/resnet18", {}, r"smp:pan/resnet18 does not take windows of 32x32 pixels .*image_size=\[256,256\]"),
        ("smp:linknet/resnet18", {"image_size": (40, 40)}, "does not take windows of 40x40"),
        ("smp:deeplabv3plus/resnet18", {"batch_size": 1}, "one value a channel.*--batch-size of 2 or more"),
        ("smp:pan/resnet18", {"batch_size": 1, "image_size": (128, 128)}, "--batch-size of 2 or more"),
    ],
)
def test_windows_and_batches_that_a_network_does_not_take(
    name: str, changes: dict, says: str, folder: Path, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=says):
        run.train(name, replace(RECIPE, **changes), str(folder), tmp_path / "run", execution=QUIET)


def test_networks_for_four_channels_are_refused(tmp_path: Path) -> None:
    smp.Unet("resnet18", encoder_weights=None, in_channels=4).save_pretrained(tmp_path)
    with pytest.raises(UserError, match="images of 4 channels; image files have 3"):
        load_segmenter(f"smp:{tmp_path}")
