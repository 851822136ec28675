"""`layeract convert`: checkpoints of other code give the logits of the network that they come from.

The networks here are written in plain torch, by the layout of the LayerAct authors' state dicts, and torchvision's.
"""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import torchvision
from safetensors.torch import save_file
from torch import Tensor, nn

from timm_layeract.checkpoints.fingerprint import activation_fingerprint
from timm_layeract.cli import app
from timm_layeract.errors import UserError
from timm_layeract.layers import UnbiasedLayerAct
from timm_layeract.release.convert import Conversion, convert

Act = Callable[[Tensor], Tensor]


def layer_level(scale: Act, alpha: float = 1e-5, correction: int = 1) -> Act:
    """y s(n) with the variance divided by d - `correction`."""

    def act(y: Tensor) -> Tensor:
        flat = y.flatten(1)
        mean = flat.mean(1).view(-1, 1, 1, 1)
        variance = flat.var(1, correction=correction).view(-1, 1, 1, 1)
        return y * scale((y - mean) / (variance + alpha) ** 0.5)

    return act


def hard(n: Tensor) -> Tensor:
    return (n / 6 + 0.5).clamp(0, 1)


class TheirBlock(nn.Module):
    def __init__(self, inputs: int, outputs: int, act: Act) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, 1 if inputs == outputs else 2, 1)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.act = act

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn2(self.conv2(self.act(self.bn1(self.conv1(x)))))
        if x.shape != y.shape:
            x = x[:, :, ::2, ::2]
            x = torch.cat([x, torch.zeros_like(x)], 1)
        return self.act(x + y)


class TheirCifarNet(nn.Module):
    """The authors' ResNet for CIFAR, by its state dict."""

    def __init__(self, depth: int, act: Act, classes: int) -> None:
        super().__init__()
        blocks = (depth - 2) // 6
        self.conv1, self.norm1, self.act = nn.Conv2d(3, 16, 3, 1, 1), nn.BatchNorm2d(16), act
        for stage, width in enumerate((16, 32, 64), start=1):
            first = TheirBlock(max(16, width // 2), width, act)
            rest = [TheirBlock(width, width, act) for _ in range(blocks - 1)]
            setattr(self, f"layers{stage}", nn.Sequential(first, *rest))
        self.linear = nn.Linear(64, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.act(self.norm1(self.conv1(x)))
        x = self.layers3(self.layers2(self.layers1(x)))
        return self.linear(x.mean((2, 3)))


class TheirUNet(nn.Module):
    """The authors' U-Net, by its state dict: joined maps are upsampled first, then skipped; a sigmoid at the end."""

    def __init__(self, act: Act, inputs: int = 3, outputs: int = 1, width: int = 32) -> None:
        super().__init__()
        widths = [width << level for level in range(5)]
        for level in range(1, 5):
            below, here = widths[level], widths[level - 1]
            setattr(self, f"encoder{level}", self.block(inputs if level == 1 else widths[level - 2], here, act))
            setattr(self, f"upconv{level}", nn.ConvTranspose2d(below, here, 2, stride=2))
            setattr(self, f"decoder{level}", self.block(2 * here, here, act))
        self.bottleneck = self.block(widths[3], widths[4], act)
        self.conv = nn.Conv2d(width, outputs, 1)

    @staticmethod
    def block(inputs: int, outputs: int, act: Act) -> nn.Sequential:
        halves = [
            (nn.Conv2d(channels, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs), Call(act))
            for channels in (inputs, outputs)
        ]
        return nn.Sequential(*halves[0], *halves[1])

    def forward(self, x: Tensor) -> Tensor:
        skips = []
        for level in range(1, 5):
            skips.append(getattr(self, f"encoder{level}")(x))
            x = nn.functional.max_pool2d(skips[-1], 2)
        x = self.bottleneck(x)
        for level in range(4, 0, -1):
            joined = torch.cat([getattr(self, f"upconv{level}")(x), skips.pop()], 1)
            x = getattr(self, f"decoder{level}")(joined)
        return torch.sigmoid(self.conv(x))


class Call(nn.Module):
    """A function as torchvision's `relu` module, at several places."""

    def __init__(self, act: Act) -> None:
        super().__init__()
        self.act = act

    def forward(self, x: Tensor) -> Tensor:
        return self.act(x)


def with_act(model: nn.Module, act: Act) -> nn.Module:
    for module in model.modules():
        if isinstance(getattr(module, "relu", None), nn.ReLU):
            module.relu = Call(act)
    return model


def trained(model: nn.Module) -> nn.Module:
    """Parameters and statistics off their initial values, with logits of ordinary size."""
    generator = torch.Generator().manual_seed(0)
    for name, tensor in model.state_dict().items():
        if name.endswith("running_var"):
            tensor.copy_(0.5 + torch.rand(tensor.shape, generator=generator))
        elif name.endswith(("bias", "running_mean")):
            tensor.copy_(0.2 * torch.randn(tensor.shape, generator=generator))
    return model.eval()


def assert_same_logits(model: nn.Module, folder: Path, side: int) -> nn.Module:
    loaded = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    images = torch.randn(4, 3, side, side, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        wanted, got = model(images), loaded(images)
    if isinstance(model, TheirUNet):
        wanted = wanted.logit()
    assert float((wanted - got).abs().max()) < 1e-4
    assert float(wanted.std()) > 0.05
    return loaded


@pytest.mark.parametrize(
    ("name", "depth", "act"),
    [
        ("resnet20_lasilu", 20, layer_level(torch.sigmoid)),
        ("resnet32_lahardsilu", 32, layer_level(hard)),
        ("resnet44_lasilu", 44, layer_level(torch.sigmoid)),
        ("resnet20", 20, torch.relu),
        ("resnet20_hardsilu", 20, nn.functional.hardswish),
    ],
)
def test_the_authors_cifar_networks(tmp_path: Path, name: str, depth: int, act: Act) -> None:
    theirs = trained(TheirCifarNet(depth, act, 100))
    torch.save(theirs.state_dict(), tmp_path / "best.pth.tar")
    done = convert(tmp_path / "best.pth.tar", name, tmp_path / "out")
    loaded = assert_same_logits(theirs, tmp_path / "out", 32)
    assert (done.architecture, loaded.num_classes) == (name, 100)
    assert done.tensors == len(theirs.state_dict())
    assert done.renamed["layers3.0.conv1.bias"] == "layer3.0.conv1.bias"
    parameters = sum(parameter.numel() for parameter in theirs.parameters())
    assert sum(parameter.numel() for parameter in loaded.parameters()) == parameters


def test_an_authors_network_with_trained_weights(tmp_path: Path) -> None:
    """Which tell the biased variance from the unbiased one, as random ones hardly do."""
    theirs = TheirCifarNet(20, layer_level(torch.sigmoid), 10).eval()
    tensors = iter(timm.create_model("resnet20_lasilu", pretrained=True).state_dict().values())
    for key, tensor in theirs.state_dict().items():
        if not ("conv" in key and key.endswith("bias")):
            tensor.copy_(next(tensors))  # both networks define their layers in the order of the data
    convert(save(theirs.state_dict(), tmp_path / "best.pth.tar"), "resnet20_lasilu", tmp_path / "out")
    assert_same_logits(theirs, tmp_path / "out", 32)


@pytest.mark.parametrize(
    ("name", "act", "side"),
    [
        ("resnet18_lasilu", layer_level(torch.sigmoid, 0.1), 64),
        ("resnet50_lahardsilu", layer_level(hard, 0.1), 64),
        ("resnet101_lasilu", layer_level(torch.sigmoid, 0.1), 32),
    ],
)
def test_the_authors_imagenet_networks(tmp_path: Path, name: str, act: Act, side: int) -> None:
    theirs = trained(with_act(getattr(torchvision.models, name.split("_")[0])(num_classes=7), act))
    state = {f"module.{key}": tensor for key, tensor in theirs.state_dict().items()}
    torch.save({"state_dict": state, "epoch": 3, "optimizer": {"lr": 0.1}}, tmp_path / "checkpoint.pth.tar")
    with pytest.raises(UserError, match=r"do not tell whose network it is: give --from timm .* or --from layeract"):
        convert(tmp_path / "checkpoint.pth.tar", name, tmp_path / "out")
    convert(tmp_path / "checkpoint.pth.tar", name, tmp_path / "out", "layeract")
    assert_same_logits(theirs, tmp_path / "out", side)


@pytest.mark.parametrize(
    ("name", "act", "shape"),
    [
        ("unet_lasilu", layer_level(torch.sigmoid), {}),
        ("unet_lahardsilu", layer_level(hard), {"inputs": 3, "outputs": 5}),
        ("unet", torch.relu, {}),
        ("unet_w64_silu", nn.functional.silu, {"width": 64}),
    ],
)
def test_the_authors_u_net(tmp_path: Path, name: str, act: Act, shape: dict[str, int]) -> None:
    torch.manual_seed(0)
    theirs = trained(TheirUNet(act, **shape))
    for level in range(1, 5):  # so that what comes from below counts
        getattr(theirs, f"upconv{level}").weight.data *= 4
    theirs.conv.weight.data *= 10
    state = {f"module.{key}": tensor for key, tensor in theirs.state_dict().items()}
    torch.save({"state_dict": state, "best_model": None, "epoch": 3}, tmp_path / "checkpoint.pth.tar")
    done = convert(tmp_path / "checkpoint.pth.tar", name, tmp_path / "out")
    loaded = assert_same_logits(theirs, tmp_path / "out", 32)
    assert (done.architecture, done.tensors, loaded.num_classes) == (name, len(state), shape.get("outputs", 1))
    assert done.renamed["decoder4.3.weight"] == "nodes.0.block.conv2.weight"
    assert done.renamed["encoder1.1.running_var"] == "encoder.0.bn1.running_var"
    for wrong in ("unet_nobn_lasilu", "unetplusplus_lasilu"):
        with pytest.raises(UserError, match=r"does not fit unet_nobn_lasilu: .*left over|takes the weights of"):
            convert(tmp_path / "checkpoint.pth.tar", wrong, tmp_path / "wrong")


@pytest.mark.parametrize("source", [None, "layeract", "timm"])
@pytest.mark.parametrize("name", ["unet_lasilu", "resnet20_lasilu"])
def test_files_of_ours_stay_as_they_are(tmp_path: Path, name: str, source: str | None) -> None:
    torch.manual_seed(0)
    model = trained(timm.create_model(name))
    done = convert(save(model.state_dict(), tmp_path / "mine.pth"), name, tmp_path / "out", source)
    loaded = assert_same_logits(model, tmp_path / "out", 32)
    assert activation_fingerprint(loaded) == activation_fingerprint(model)
    assert done.renamed == {}


def test_the_unbiased_variance_is_needed() -> None:
    """What the authors' code computes differs from the paper's equation by more than 1e-4, in a trained network."""
    model = timm.create_model("resnet20_lasilu", pretrained=True).eval()
    unbiased = timm.create_model("resnet20_lasilu", act_layer="lasilu_unbiased").eval()
    unbiased.load_state_dict(model.state_dict())
    images = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        assert float((model(images) - unbiased(images)).abs().max()) > 1e-4


@pytest.mark.parametrize("scale", ["sigmoid", "hardsigmoid"])
@pytest.mark.parametrize("shape", [(2, 3, 5, 7), (3, 2, 1, 1), (4, 6)])
def test_unbiased_values_and_gradients(scale: str, shape: tuple[int, ...]) -> None:
    y = torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) + 3
    act = UnbiasedLayerAct(scale, alpha=0.1)
    wanted = layer_level({"sigmoid": torch.sigmoid, "hardsigmoid": hard}[scale], 0.1)
    four = [*shape, 1, 1][:4]
    torch.testing.assert_close(act(y), wanted(y.view(four)).view(shape))
    assert torch.autograd.gradcheck(act, (y.requires_grad_(),))
    torch.testing.assert_close(act(y.float()), wanted(y.view(four)).view(shape).float())  # through the kernel


@pytest.mark.parametrize("kind", ["timm", "torchvision"])
def test_relu_weights_start_a_network_of_ours(tmp_path: Path, kind: str) -> None:
    make = timm.create_model if kind == "timm" else lambda name, **args: getattr(torchvision.models, name)(**args)
    stock = trained(make("resnet18", num_classes=5))
    tensors = {key: tensor for key, tensor in stock.state_dict().items() if "num_batches" not in key}
    save_file(tensors, tmp_path / "stock.safetensors")  # as files of early torch
    done = convert(tmp_path / "stock.safetensors", "resnet18_lasilu", tmp_path / "out", "timm")
    assert done.activations == ["LASiLU(alpha=0.1)"]
    twin = with_act(torchvision.models.resnet18(num_classes=5), layer_level(torch.sigmoid, 0.1, correction=0))
    twin.load_state_dict(stock.state_dict())
    assert_same_logits(twin.eval(), tmp_path / "out", 64)
    convert(tmp_path / "stock.safetensors", "resnet18", tmp_path / "stock", "timm")
    assert_same_logits(stock, tmp_path / "stock", 64)


@pytest.fixture
def state() -> dict[str, Tensor]:
    return trained(TheirCifarNet(20, torch.relu, 10)).state_dict()


def save(value: Any, path: Path) -> Path:
    torch.save(value, path)
    return path


def test_what_does_not_fit_is_named(state: dict[str, Tensor], tmp_path: Path) -> None:
    file, out = tmp_path / "checkpoint.pth", tmp_path / "out"

    def refused(said: str, arch: str = "resnet20_lasilu", source: str = "layeract") -> None:
        with pytest.raises(UserError, match=said):
            convert(file, arch, out, source)
        assert not out.exists()

    save(state, file)
    refused(r"does not fit resnet32_lasilu: \d+ missing: layer1\.3\.conv1\.weight.* and \d+ more", "resnet32_lasilu")
    refused(r"\d+ left over: conv1\.bias, norm1\.weight", "resnet20_lasilu", "timm")
    refused(r"left over: .*; .*of another shape: conv1\.weight \[16, 3, 3, 3\] for \[64, 3, 7, 7\]", "resnet18_lasilu")
    refused(r"The layeract code has no network that convnext_atto takes", "convnext_atto")
    refused(r"Unknown architecture 'resnet20_lasilux'; did you mean", "resnet20_lasilux")
    refused(r"Unknown source 'keras'; known are layeract, timm", source="keras")
    save({**state, "layer1.0.conv1.weight": state["layers1.0.conv1.weight"]}, file)
    refused("keys of two layouts")
    save({**state, "linear.weight": state["linear.weight"] / 0}, file)
    refused(r"NaN or infinity, in linear\.weight")
    save([1, 2], file)
    refused(r"cannot be read as tensors|holds no state dict")
    save({"epoch": 3}, file)
    refused("holds no state dict")
    save({}, file)
    refused("holds no state dict")
    file.unlink()
    refused("There is no checkpoint")


class Evil:
    def __reduce__(self) -> tuple[Any, ...]:
        return (print, ("executed",))


def test_pickled_objects_are_not_executed(
    state: dict[str, Tensor], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = save({"state_dict": state, "extra": Evil()}, tmp_path / "evil.pth")
    with pytest.raises(UserError, match=r"cannot be read as tensors.*save its state dict alone"):
        convert(file, "resnet20", tmp_path / "out")
    assert "executed" not in capsys.readouterr().out
    # what timm's own training saves beside the weights is harmless, and read
    file = save({"state_dict": state, "args": argparse.Namespace(lr=0.1)}, tmp_path / "timm.pth.tar")
    assert isinstance(convert(file, "resnet20", tmp_path / "out"), Conversion)


def test_a_used_folder_is_left_alone(state: dict[str, Tensor], tmp_path: Path) -> None:
    file = save(state, tmp_path / "checkpoint.pth")
    (tmp_path / "mine.txt").write_text("kept")
    for out in (tmp_path, tmp_path / "mine.txt"):
        with pytest.raises(UserError, match="is not an empty folder; give another --out"):
            convert(file, "resnet20", out)


def test_the_command(state: dict[str, Tensor], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = save(state, tmp_path / "checkpoint.pth")
    app(["convert", str(file), "--arch", "resnet20_silu", "--out", str(tmp_path / "out")], standalone_mode=False)
    out = capsys.readouterr().out
    assert "layers1.0.conv1.weight -> layer1.0.conv1.weight" in out
    assert "tensors as resnet20_silu, which runs SiLU()" in out
    loaded = timm.create_model(f"local-dir:{tmp_path / 'out'}", pretrained=True)
    assert activation_fingerprint(loaded)["act1"] == "SiLU()"
