"""The grammar of networks' names: what each form gives, the same network by every road, and what is refused."""

from pathlib import Path

import pytest
import segmentation_models_pytorch as smp
import timm
import torch
from torch import nn

import timm_layeract
from tests.cli.test_cli import layeract
from timm_layeract.errors import UserError
from timm_layeract.networks import load_network, parse_source


def resnet() -> nn.Module:
    torch.manual_seed(1)
    return timm.create_model("resnet20_lasilu", num_classes=7)


def unet() -> nn.Module:
    torch.manual_seed(2)
    return smp.create_model(
        "unet_lasilu", "resnet18", encoder_weights=None, encoder_depth=3, decoder_channels=(8, 4, 4)
    )


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A network saved in every way there is; a run's folder holds it as model/."""
    folder = tmp_path_factory.mktemp("networks")
    timm_layeract.save_pretrained(resnet(), folder / "run" / "model")
    torch.save(resnet().state_dict(), folder / "weights.pth")
    unet().save_pretrained(folder / "segmenter")
    return folder


NAMES = [
    "{place}/run",
    "{place}/run/model",
    "local-dir:{place}/run/model",
    "resnet20_lasilu={place}/run/model/model.safetensors",
    "resnet20_lasilu={place}/weights.pth",
    "tests.test_source:resnet",
]


@pytest.mark.parametrize("name", NAMES)
def test_every_name_gives_the_same_network(name: str, place: Path) -> None:
    images = torch.rand(2, 3, 32, 32)
    found = load_network(name.format(place=place))
    assert not found.training
    with torch.inference_mode():
        torch.testing.assert_close(found(images), resnet().eval()(images), rtol=0, atol=0)


@pytest.mark.parametrize("name", ["{place}/segmenter", "smp:{place}/segmenter", "tests.test_source:unet"])
def test_every_name_gives_the_same_segmentation_network(name: str, place: Path) -> None:
    images = torch.rand(2, 3, 32, 32)
    with torch.inference_mode():
        torch.testing.assert_close(
            load_network(name.format(place=place))(images), unet().eval()(images), rtol=0, atol=0
        )


@pytest.mark.parametrize("name", [*NAMES, "resnet20_lasilu.cifar10"])
def test_a_new_head_keeps_the_other_weights(name: str, place: Path) -> None:
    source = parse_source(name.format(place=place))
    tuned, whole = source.load(num_classes=3), source.load()
    assert tuned.get_classifier().out_features == 3  # type: ignore[operator]
    assert torch.equal(tuned.conv1.weight, whole.conv1.weight)  # type: ignore[union-attr,arg-type]


@pytest.mark.parametrize("name", [NAMES[0], *NAMES[2:]])
def test_a_network_is_made_anew_by_every_name(name: str, place: Path) -> None:
    source = parse_source(name.format(place=place))
    architecture, config = source.describe()
    assert (architecture, config["input_size"]) == ("resnet20_lasilu", (3, 32, 32))
    torch.manual_seed(1)
    fresh = source.create(7)
    assert torch.equal(fresh.state_dict()["conv1.weight"], resnet().state_dict()["conv1.weight"])


BAD = {
    "nosuch": "Unknown model 'nosuch': neither a timm model nor a folder here; ",
    "resnet20_lasil": "did you mean 'resnet20_lasilu'",
    "x" * 300: "too long to be the name of a network",
    "": "Unknown model ''",
    "resnet110_mish": "has no pretrained weights",
    "resnet20_lasilu.cifar11": "has no pretrained weights; did you mean 'resnet20_lasilu.cifar10'",
    "hf-hub:": "names nothing: give",
    "local-dir:": "names nothing: give",
    "hf-hub:../x": "cannot be loaded",
    "{place}/none": "Unknown model",
    "{place}": "holds no model",
    "{place}/list": "names no architecture that timm knows: None",
    "{place}/number": "names no architecture that timm knows: 3",
    "{place}/torn": "cannot be read",
    "resnet20=": "There is no checkpoint file",
    "=x": "Unknown architecture ''",
    "resnet20={place}/torn/config.json": "cannot be read as weights",
    "resnet32={place}/weights.pth": "does not fit resnet32",
    "resnet20={place}/run/model/model.safetensors": "belongs? to|activations",
    ":x": "names no network",
    "..:x": "names no network",
    "http://127.0.0.1/x": "names no network",
    "os:nosuch": "cannot be called \\(AttributeError",
    "nosuchmodule:f": "cannot be called \\(ModuleNotFoundError",
    "tests.test_source:boom": "cannot be called \\(RuntimeError: boom",
    "tests.test_source:Path": "returned PosixPath",
    "smp:": "names nothing",
}


def boom() -> None:
    raise RuntimeError("boom")


@pytest.mark.parametrize("name", BAD, ids=lambda name: name[:30])
def test_what_is_none_is_refused_in_one_short_line(
    name: str, place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for folder, text in {"list": "[]", "number": '{"architecture": 3}', "torn": "{"}.items():
        (place / folder).mkdir(exist_ok=True)
        (place / folder / "config.json").write_text(text)
    given, output = name.format(place=place), tmp_path / "out"
    with pytest.raises(UserError, match=BAD[name]) as caught:
        load_network(given)
    assert len(str(caught.value)) < 500 + len(str(place))
    for command in (
        ["predict", "x.png", "-m", given],
        ["adapt", given, "-d", "x"],
        ["finetune", "-m", given, "-d", "x"],
    ):
        code, _, err = layeract(*command, "-o", str(output), capsys=capsys)
        assert (code, err.count("\n")) == (2, 1), command
    assert not output.exists()
