"""Which network a name builds: He et al.'s CIFAR ResNets or timm's ImageNet ResNets, each with its activation."""

import numpy as np
import pytest
import timm
import torch
from torch import nn

from timm_layeract.checkpoints.fingerprint import activation_fingerprint
from timm_layeract.models import resnet_cifar, resnet_layeract

# He et al. 2016, table 6, in millions.
PUBLISHED_MILLIONS = {20: 0.27, 32: 0.46, 44: 0.66, 56: 0.85, 110: 1.7}
CIFAR_ACTIVATIONS = {
    "": "ReLU()",
    "_lrelu": "LeakyReLU(negative_slope=0.01)",
    "_prelu": "PReLU(num_parameters=1)",
    "_silu": "SiLU()",
    "_hardsilu": "Hardswish()",
    "_mish": "Mish()",
    "_gelu": "GELU()",
    "_elu": "ELU(alpha=1)",
    "_lasilu": "LASiLU(alpha=1e-05)",
    "_lahardsilu": "LAHardSiLU(alpha=1e-05)",
    "_selu": "SELU()",
    "_tanh": "Tanh()",
}
NORMALIZED = {"_nrelu": ("ReLU()", nn.ReLU), "_nswish": ("SiLU()", nn.SiLU)}
IMAGENET_ACTIVATIONS = {"_lasilu": "LASiLU(alpha=0.1)", "_lahardsilu": "LAHardSiLU(alpha=0.1)"}


def create_meta(name: str, **kwargs: object) -> nn.Module:
    return timm.create_model(name, device="meta", dtype=torch.float32, **kwargs)


def shapes(model: nn.Module) -> dict[str, torch.Size]:
    return {key: tensor.shape for key, tensor in model.state_dict().items()}


@pytest.mark.parametrize(("depth", "millions"), PUBLISHED_MILLIONS.items())
def test_cifar_resnet_has_the_published_size(depth, millions):
    model = create_meta(f"resnet{depth}")
    assert round(sum(p.numel() for p in model.parameters()) / 1e6, 1 if millions > 1 else 2) == millions
    assert sum(isinstance(module, nn.Conv2d | nn.Linear) for module in model.modules()) == depth


@pytest.mark.parametrize("depth", resnet_cifar.DEPTHS)
@pytest.mark.parametrize(("suffix", "activation"), CIFAR_ACTIVATIONS.items())
def test_cifar_name_says_its_activation(depth, suffix, activation):
    sites = activation_fingerprint(create_meta(f"resnet{depth}{suffix}"))
    assert set(sites.values()) == {activation}
    assert len(sites) == depth - 1


def test_every_cifar_activation_is_covered():
    assert CIFAR_ACTIVATIONS.keys() == resnet_cifar.CIFAR_ACTIVATIONS.keys()


@pytest.mark.parametrize("stock", resnet_layeract.RESNETS)
def test_imagenet_resnet_is_timms_with_another_activation(stock):
    relu = create_meta(stock)
    relu_sites = activation_fingerprint(relu)
    for suffix, activation in IMAGENET_ACTIVATIONS.items():
        # trained weights may have given the name other classes
        ours = create_meta(f"{stock}{suffix}", num_classes=relu.num_classes)
        assert shapes(ours) == shapes(relu)
        expected = {path: act if ".se." in path else activation for path, act in relu_sites.items()}
        assert activation_fingerprint(ours) == expected
        assert ours.pretrained_cfg["first_conv"] == relu.pretrained_cfg["first_conv"]


def test_relu_weights_of_the_stock_model_fit():
    stock, ours = timm.create_model("resnet18"), timm.create_model("resnet18_lasilu")
    ours.load_state_dict(stock.state_dict())
    with torch.no_grad():
        x = torch.randn(2, 3, 32, 32)
        torch.testing.assert_close(ours.conv1(x), stock.conv1(x))
        assert not torch.allclose(ours.eval()(x), stock.eval()(x))


def option_a(x: np.ndarray, channels: int, stride: int, zeros: str) -> np.ndarray:
    """He et al. 2016, section 3.3 (A): every stride-th pixel, zero channels on both sides or behind."""
    new = np.zeros((x.shape[0], channels, *x[0, 0, ::stride, ::stride].shape), x.dtype)
    first = (channels - x.shape[1]) // 2 if zeros == "around" else 0
    new[:, first : first + x.shape[1]] = x[:, :, ::stride, ::stride]
    return new


@pytest.mark.parametrize(("channels", "stride", "size"), [(4, 1, 6), (8, 2, 6), (8, 2, 7), (7, 2, 5), (8, 1, 4)])
@pytest.mark.parametrize("zeros", ["around", "after"])
def test_option_a_shortcut(channels, stride, size, zeros):
    block = resnet_cifar.CifarBlock(4, channels, stride, 1, nn.Identity, nn.BatchNorm2d, 0.0, {}, zeros=zeros).eval()
    nn.init.zeros_(block.bn2.weight)  # leaves the shortcut alone
    x = torch.randn(3, 4, size, size)
    np.testing.assert_array_equal(block(x).detach().numpy(), option_a(x.numpy(), channels, stride, zeros))


def test_convolutions_may_have_biases_which_batch_norm_makes_idle():
    torch.manual_seed(0)
    biased = timm.create_model("resnet20_lasilu", conv_bias=True, shortcut_zeros="after").eval()
    plain = timm.create_model("resnet20_lasilu", shortcut_zeros="after").eval()
    convolutions = [module for module in biased.modules() if isinstance(module, nn.Conv2d)]
    assert all((conv.bias == 0).all() for conv in convolutions)
    plain.load_state_dict({key: tensor for key, tensor in biased.state_dict().items() if key in plain.state_dict()})
    for conv, norm in zip(convolutions, [m for m in biased.modules() if isinstance(m, nn.BatchNorm2d)], strict=True):
        nn.init.normal_(conv.bias)
        norm.running_mean += conv.bias.detach()
    x = torch.randn(2, 3, 32, 32)
    torch.testing.assert_close(biased(x), plain(x), rtol=1e-4, atol=1e-5)
    with pytest.raises(ValueError, match="shortcut_zeros must be 'around' or 'after', got 'before'"):
        timm.create_model("resnet20_lasilu", shortcut_zeros="before")


def test_initialisation_is_hes_and_no_branch_starts_at_zero():
    torch.manual_seed(0)
    model = timm.create_model("resnet20_lasilu")
    weight = model.layer3[2].conv1.weight
    assert float(weight.detach().std()) == pytest.approx((2 / (64 * 9)) ** 0.5, rel=0.05)
    blocks = [module for module in model.modules() if isinstance(module, resnet_cifar.CifarBlock)]
    assert len(blocks) == 9
    assert all((norm.weight == 1).all() for block in blocks for norm in (block.bn1, block.bn2))


@pytest.mark.parametrize("stock", ["resnet20", "resnet18", "resnet26d", "resnext50_32x4d", "seresnet50"])
@pytest.mark.parametrize("suffix", NORMALIZED)
def test_normalized_name_says_its_activations_and_their_places(stock, suffix):
    base, kind = NORMALIZED[suffix]
    last = max(path.rpartition(".")[2] for path in activation_fingerprint(create_meta(stock)) if ".se." not in path)
    sites, plain = activation_fingerprint(create_meta(f"{stock}{suffix}")), activation_fingerprint(create_meta(stock))
    normalized = f"NormalizedAct(centered=True, momentum=0.1, lower=0.2, upper=5, base={kind()!s})"
    for path, old in plain.items():
        behind_addition = path.startswith("layer") and path.endswith(last)
        gate = old if "gate" in path else base if behind_addition else None
        if ".se.act" in path:
            gate = "ReLU()"
        assert sites[path] == (gate or normalized), path
