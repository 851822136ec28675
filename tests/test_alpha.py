"""alpha of a network's LayerActs: given where it is made, swapped, trained or adapted; kept wherever it is saved."""

import json
from functools import partial
from pathlib import Path

import pytest
import timm
import torch
from torch import nn

import timm_layeract
from tests.cli.test_cli import layeract
from tests.data.test_sources import parquet
from timm_layeract import LASiLU, LayerAct
from timm_layeract.checkpoints.fingerprint import ActivationMismatchError, activation_fingerprint
from timm_layeract.data.sources import ImageSplit
from timm_layeract.errors import UserError
from timm_layeract.layers import LAHardSiLU, alphas, set_alpha
from timm_layeract.registry import activation_factory, activation_name, with_alpha
from timm_layeract.release.shipped import embed_checkpoint

MODELS = {
    "resnet20_lasilu": dict(alpha=0.03),
    "resnet18_lahardsilu": dict(alpha=0.03),
    "resnet20": dict(act_layer="lasilu(alpha=0.03)"),
    "resnet18": dict(act_layer=partial(LASiLU, alpha=0.03)),
    "convnext_atto": dict(act_layer=partial(LayerAct, scale="hardsigmoid", alpha=0.03)),
    "unet_lasilu": dict(alpha=0.03, width=4),
    "textrcnn_lasilu": dict(alpha=0.03, vocab_size=9),
}


@pytest.mark.parametrize("name", MODELS)
def test_alpha_comes_back_from_a_folder(name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = timm.create_model(name, num_classes=1, **MODELS[name]).eval()
    assert alphas(model) == {0.03}
    timm_layeract.save_pretrained(model, tmp_path)
    loaded = timm.create_model(f"local-dir:{tmp_path}", pretrained=True).eval()
    assert activation_fingerprint(loaded) == activation_fingerprint(model)
    inputs = torch.randint(9, (2, 20)) if name.startswith("text") else torch.randn(2, 3, 64, 64)
    with torch.inference_mode():
        assert torch.equal(loaded(inputs), model(inputs))
        set_alpha(model, 10.0)
        assert not torch.equal(loaded(inputs), model(inputs))  # it is computed with


def test_weights_of_another_alpha_are_refused(tmp_path: Path) -> None:
    timm_layeract.save_pretrained(timm.create_model("resnet20_lasilu", alpha=0.03), tmp_path)
    with pytest.raises(ActivationMismatchError, match=r"LASiLU\(alpha=0.03\) expected, LASiLU\(alpha=0.5\) found"):
        timm.create_model(f"local-dir:{tmp_path}", pretrained=True, alpha=0.5)
    with pytest.raises(UserError, match="own alpha alone"):
        embed_checkpoint(timm.create_model("resnet20_lasilu", alpha=0.03), "tag", {"label_names": []}, tmp_path / "w")


def test_swapped_networks_are_saved_with_theirs(tmp_path: Path) -> None:
    model = timm.create_model("resnet18")
    report = timm_layeract.swap_activations(model, "lasilu", alpha=0.02)
    assert {entry.new for entry in report} == {"LASiLU(alpha=0.02)"}
    assert timm_layeract.save_pretrained(model, tmp_path) == "resnet18_lasilu"
    assert json.loads((tmp_path / "config.json").read_text())["model_args"]["alpha"] == 0.02
    assert alphas(timm.create_model(f"local-dir:{tmp_path}", pretrained=True)) == {0.02}


@pytest.mark.parametrize(
    ("factory", "name"),
    [
        (LASiLU, "lasilu"),
        (partial(LASiLU, alpha=0.1), "lasilu_imagenet"),
        (partial(LASiLU, alpha=0.25), "lasilu(alpha=0.25)"),
        (partial(LAHardSiLU, alpha=2), "lahardsilu(alpha=2)"),
        (LayerAct, "layeract(scale=sigmoid)"),
        (partial(LayerAct, scale="hardsigmoid", alpha=1e-3), "layeract(alpha=0.001,scale=hardsigmoid)"),
        (nn.ReLU, "relu"),
    ],
)
def test_names_of_factories_give_them_back(factory: type[nn.Module], name: str) -> None:
    assert activation_name(factory) == name
    assert repr(activation_factory(name)()) == repr(factory())


def test_names_with_alpha() -> None:
    assert with_alpha("LASiLU", 0.1) == "lasilu(alpha=0.1)"
    assert with_alpha("lahardsilu( alpha = 0.3 )", 1e-07) == "lahardsilu(alpha=1e-07)"
    assert with_alpha("layeract(scale=hardsigmoid)", 2.0) == "layeract(scale=hardsigmoid,alpha=2.0)"
    for name, says in {
        "lasilu(alpha=0)": "must be a positive number",
        "lasilu(alpha=x)": "could not convert",
        "lasilu(beta=1)": "has no 'beta'",
        "lasilu(scale=sigmoid)": "has no 'scale'",
        "layeract(scale=tanh)": "Unknown scale 'tanh'",
        "relu(alpha=1)": "relu is not a LayerAct",
        "nrelu(alpha=1)": "nrelu is not a LayerAct",
        "lasillu(alpha=1)": "did you mean 'lasilu'",
        "lasilu(alpha=1": "Unknown activation",
    }.items():
        with pytest.raises(UserError, match=says):
            activation_factory(name)
        with pytest.raises((UserError, KeyError)):
            timm.create_model("resnet18", act_layer=name)
    with pytest.raises(UserError, match="runs no LayerAct"):
        timm.create_model("resnet20", alpha=0.1)
    with pytest.raises(UserError, match="has no name that a config could hold"):
        activation_name(partial(nn.LeakyReLU, 0.3))


def test_commands_train_tune_and_adapt_with_it(
    tmp_path: Path, digits: ImageSplit, capsys: pytest.CaptureFixture[str]
) -> None:
    parquet(tmp_path / "data", digits, {"train": 60, "test": 30})
    sizes = ["--epochs", "1", "--batch-size", "16", "--set", "image_size=[8, 8]", "-d", str(tmp_path / "data")]
    commands = {
        "train": ["-m", "resnet20_lasilu"],
        "finetune": ["-m", str(tmp_path / "train")],
        "adapt": [str(tmp_path / "train"), "--to", "lahardsilu", "--unlabelled"],
        "sweep": ["resnet20_lasilu", "--seeds", "3"],
    }
    for number, (command, words) in enumerate(commands.items(), 1):
        alpha, output = number / 8, tmp_path / command
        code, _, err = layeract(command, *words, *sizes, "--alpha", str(alpha), "-o", str(output), capsys=capsys)
        assert (code, err) == (0, ""), command
        output = output / "resnet20_lasilu.seed3" if command == "sweep" else output
        result = json.loads((output / "result.json").read_text())
        kind = "LAHardSiLU" if command == "adapt" else "LASiLU"
        assert set(result["activations"].values()) == {f"{kind}(alpha={alpha:g})"}
        assert alphas(timm.create_model(f"local-dir:{output / 'model'}", pretrained=True)) == {alpha}
    assert json.loads((tmp_path / "adapt" / "result.json").read_text())["adaptation"]["to"] == "lahardsilu(alpha=0.375)"
    for words in (["-m", "resnet20"], ["-m", "resnet20_nrelu"], ["-m", "smp:unet/resnet18"]):
        code, _, err = layeract("train", *words, *sizes, "--alpha", "1", "-o", str(tmp_path / "x"), capsys=capsys)
        assert (code, err.count("\n"), (tmp_path / "x").exists()) == (2, 1, False)
