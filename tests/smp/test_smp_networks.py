"""SMP's networks by name: made, trained by the engine, loaded again, given another activation."""

from pathlib import Path

import numpy as np
import pytest
import segmentation_models_pytorch as smp
import torch
from PIL import Image

from timm_layeract.checkpoints.fingerprint import activation_fingerprint
from timm_layeract.errors import UserError
from timm_layeract.prediction.files import load_segmenter
from timm_layeract.smp.by_name import create_by_name, load_by_name, with_activation
from timm_layeract.training import run
from timm_layeract.training.options import Execution
from timm_layeract.training.recipe import Recipe


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
    recipe = Recipe(task="segmentation", epochs=1, batch_size=4, image_size=(32, 32), padding=0, lr=0.01)
    name = "smp:unetplusplus_lasilu/resnet18_lasilu"
    result = run.train(
        name, recipe, str(folder), tmp_path / "run", execution=Execution(progress=False, report=lambda _: None)
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
            "smp:unet/resnet18", recipe, str(folder), tmp_path / "run", execution=Execution(resume=True, progress=False)
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
