"""LeNet-5, VGG-19, the CNN of LayerAct v1 and its perceptrons: the papers' networks, as timm models."""

import copy

import pytest
import timm
import torch
from timm.models import group_parameters, save_for_hf
from timm.optim import create_optimizer_v2
from torch import Tensor, nn

from tests.scripting import scripting
from timm_layeract import save_pretrained, unfuse
from timm_layeract.checkpoints.fingerprint import ActivationMismatchError, activation_fingerprint
from timm_layeract.errors import UserError
from timm_layeract.models.plain_cnn import PLAIN_VARIANTS

OURS = timm.list_models(module=["plain_cnn", "perceptron"])
# One of each architecture, and of each kind of activation.
KINDS = ["lenet5_nswish", "cnn16_bn_lasilu", "cnn16_tanh", "mlp20x4_nrelu", "mlp40x4_lasilu"]
CONVOLUTIONAL = [name for name in KINDS if not name.startswith("mlp")]
each_kind = pytest.mark.parametrize("name", KINDS)

# Suffix -> activation, and what the second paper (LayerAct v1 for the others) draws its weights by.
EXPECTED = {
    "": ("ReLU()", "he"),
    "_lrelu": ("LeakyReLU(negative_slope=0.01)", "he"),
    "_elu": ("ELU(alpha=1)", "he"),
    "_selu": ("SELU()", "he"),
    "_silu": ("SiLU()", "he"),
    "_hardsilu": ("Hardswish()", "he"),
    "_tanh": ("Tanh()", "xavier"),
    "_relugpn": ("LeakyReLUGPN(negative_slope=0)", "orthogonal"),
    "_lrelugpn": ("LeakyReLUGPN(negative_slope=0.01)", "orthogonal"),
    "_lasilu": ("LASiLU(alpha=1e-05)", "he"),
    "_lahardsilu": ("LAHardSiLU(alpha=1e-05)", "he"),
    "_nrelu": ("NormalizedAct(centered={}, momentum=0.1, lower=0.2, upper=5, base=ReLU())", "xavier"),
    "_nswish": ("NormalizedAct(centered={}, momentum=0.1, lower=0.2, upper=5, base=SiLU())", "xavier"),
    "_nlrelu": (
        "NormalizedAct(centered={}, momentum=0.1, lower=0.2, upper=5, base=LeakyReLU(negative_slope=0.01))",
        "xavier",
    ),
}
# Parameters by hand: LeNet-5 as ever (61,706); VGG-19's convolutions 20,024,384 with their biases.
SIZES = {
    "lenet5": (5 * 5 + 1) * 6 + (5 * 5 * 6 + 1) * 16 + (400 + 1) * 120 + (120 + 1) * 84 + (84 + 1) * 10,
    "vgg19_cifar": 20_024_384 + (512 + 1) * 4096 + (4096 + 1) * 4096 + (4096 + 1) * 100,
    "vgg19_bn_cifar": 20_024_384 + 5_504 + (512 + 1) * 4096 + (4096 + 1) * 4096 + (4096 + 1) * 100,
    "mlp20x4": (784 + 1) * 20 + 3 * (20 + 1) * 20 + (20 + 1) * 10,
    "mlp512x1": (784 + 1) * 512 + (512 + 1) * 10,
    "mlp100x4": (784 + 1) * 100 + 3 * (100 + 1) * 100 + (100 + 1) * 10,
}


def create(name: str, **kwargs: object) -> nn.Module:
    torch.manual_seed(0)
    return timm.create_model(name, **kwargs)


def create_meta(name: str, **kwargs: object) -> nn.Module:
    return timm.create_model(name, device="meta", dtype=torch.float32, **kwargs)


def images(model: nn.Module, batch: int = 4) -> Tensor:
    shape = (model.in_chans, *model.pretrained_cfg["input_size"][1:])
    return torch.randn(batch, *shape, generator=torch.Generator().manual_seed(1))


def test_registered() -> None:
    assert PLAIN_VARIANTS.keys() == EXPECTED.keys()
    assert len(OURS) == (5 + 4) * len(EXPECTED)


@pytest.mark.parametrize(("name", "size"), SIZES.items())
def test_sizes(name: str, size: int) -> None:
    assert sum(parameter.numel() for parameter in create_meta(name).parameters()) == size


def test_table_6() -> None:
    """LayerAct v1: kernel and channels of each convolution, and where the size halves."""
    model = create_meta("cnn16")
    convolutions = [module for module in model.modules() if isinstance(module, nn.Conv2d)]
    widths = [(16, 16, 32), (32, 32, 64), (64, 64, 128), (128, 128, 256), (256, 256, 512)]
    assert [conv.out_channels for conv in convolutions] == [width for stage in widths for width in stage]
    assert [conv.kernel_size[0] for conv in convolutions] == [1, 3, 3] * 5
    assert all(conv.stride == (1, 1) for conv in convolutions)
    features = model.forward_intermediates(torch.empty(1, 3, 32, 32, device="meta"), intermediates_only=True)
    assert [feature.shape[-1] for feature in features] == [32, 16, 8, 4, 2]


@pytest.mark.parametrize("architecture", ["lenet5", "vgg19_cifar", "vgg19_bn_cifar", "cnn16", "mlp20x4"])
@pytest.mark.parametrize("suffix", EXPECTED)
def test_name_says_its_activation(architecture: str, suffix: str) -> None:
    model = create_meta(f"{architecture}{suffix}")
    sites = list(activation_fingerprint(model).values())
    activation = EXPECTED[suffix][0].format(architecture != "lenet5")  # the paper's LeNet leaves mu out
    top = 3 if suffix in ("_nrelu", "_nswish", "_nlrelu") and architecture.startswith("vgg") else 0
    assert set(sites[: len(sites) - top]) == {activation}
    assert all("NormalizedAct" not in site for site in sites[len(sites) - top :])
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    assert len(norms) == (16 if architecture == "vgg19_bn_cifar" else 0)
    assert [norm.affine for norm in norms] == ([False] * 15 + [True] if top and norms else [True] * len(norms))
    x = torch.empty(2, *model.pretrained_cfg["input_size"], device="meta")
    features = model.eval().forward_features(x)
    assert model.forward_head(features).shape == (2, model.pretrained_cfg["num_classes"])
    if "mlp" not in architecture:
        assert features.shape == (2, model.num_features, *model.pretrained_cfg["pool_size"])


@pytest.mark.parametrize("suffix", EXPECTED)
def test_weights_are_drawn_as_the_papers_say(suffix: str) -> None:
    weight = create(f"mlp100x4{suffix}").hidden[0].fc.weight.detach()
    spread = {"he": (2 / 784) ** 0.5, "xavier": (2 / (784 + 100)) ** 0.5, "orthogonal": 784**-0.5}
    name = EXPECTED[suffix][1]
    assert float(weight.std()) == pytest.approx(spread[name], rel=0.02)
    orthogonal = torch.allclose(weight @ weight.T, torch.eye(100), atol=1e-4)
    assert orthogonal == (name == "orthogonal")
    lenet = create(f"lenet5{suffix}").stages[1][0].conv.weight.detach()
    expected = {"he": (2 / 150) ** 0.5, "xavier": (2 / (150 + 400)) ** 0.5, "orthogonal": 150**-0.5}
    assert float(lenet.std()) == pytest.approx(expected[name], rel=0.1)


def test_vgg_draws_leaky_relu_by_xavier() -> None:
    weight = create("vgg19_cifar_lrelu").stages[1][0].conv.weight.detach()
    assert float(weight.std()) == pytest.approx((2 / (9 * 64 + 9 * 128)) ** 0.5, rel=0.02)


@each_kind
def test_backward_reaches_every_parameter(name: str) -> None:
    model = create(name, num_classes=7).train()
    model(images(model)).square().mean().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


@each_kind
def test_heads(name: str) -> None:
    model = create(name).eval()
    x = images(model)
    assert model.get_classifier() is model.get_submodule(model.get_classifier(name_only=True))
    pooled = model.forward_head(model.forward_features(x), pre_logits=True)
    assert pooled.shape == (4, model.head_hidden_size)
    torch.testing.assert_close(model.get_classifier()(pooled), model(x))
    model.reset_classifier(3)
    assert model(x).shape == (4, 3)
    model.reset_classifier(0)
    torch.testing.assert_close(model(x), pooled)
    headless = create(name, num_classes=0).eval()
    assert headless(x).shape == pooled.shape


@each_kind
def test_grouping_by_depth(name: str) -> None:
    model = create(name)
    groups = group_parameters(model, model.group_matcher(), reverse=True)
    assert set(groups) == dict(model.named_parameters()).keys()
    assert groups["fc.weight"] == max(groups.values())
    optimizer = create_optimizer_v2(model, opt="sgd", lr=0.1, layer_decay=0.5)
    assert len({group["lr_scale"] for group in optimizer.param_groups}) > 2


@pytest.mark.parametrize("name", CONVOLUTIONAL)
def test_features(name: str) -> None:
    model = create(name).eval()
    x = images(model)
    with torch.no_grad():
        output, features = model.forward_intermediates(x)
        torch.testing.assert_close(output, model.forward_features(x))
        early = model.forward_intermediates(x, indices=[0], stop_early=True, intermediates_only=True)
        torch.testing.assert_close(early, features[:1])
        wrapped = create(name, features_only=True, out_indices=(0, 1)).eval()
        torch.testing.assert_close(list(wrapped(x)), features[:2])
        assert wrapped.feature_info.channels() == [feature.shape[1] for feature in features[:2]]
        model.set_grad_checkpointing()
        torch.testing.assert_close(model.forward_features(x), output)
    with pytest.raises(ValueError, match="NCHW"):
        model.forward_intermediates(x, output_fmt="NLC")
    with pytest.raises(ValueError, match="'avg' or 'max'"):
        create(name, global_pool="catavgmax")
    assert isinstance(create(name, global_pool="max").global_pool, nn.AdaptiveMaxPool2d)


def test_a_perceptron_has_no_features() -> None:
    with pytest.raises(UserError, match="mlp20x4 has no feature maps"):
        timm.create_model("mlp20x4", features_only=True)


def test_other_image_sizes() -> None:
    assert create("lenet5")(torch.randn(2, 1, 32, 32)).shape == (2, 10)
    assert create("cnn16")(torch.randn(2, 3, 64, 48)).shape == (2, 10)
    assert create("mlp20x4", img_size=(8, 8), in_chans=3)(torch.randn(2, 3, 8, 8)).shape == (2, 10)


@each_kind
def test_saving_keeps_the_activations(name: str, tmp_path) -> None:
    model = create(name, num_classes=5)
    model.train()(images(model))  # statistics of normalized activations leave their start
    x = images(model)
    save_for_hf(model, str(tmp_path), safe_serialization=True)
    loaded = timm.create_model(f"local-dir:{tmp_path}", pretrained=True)
    torch.testing.assert_close(loaded.eval()(x), model.eval()(x), rtol=0, atol=0)
    assert save_pretrained(model, tmp_path / "ours") == name
    other = "normalized_act" if name.endswith(("_nrelu", "_nswish")) else "act_layer"
    with pytest.raises(ActivationMismatchError):
        timm.create_model(f"local-dir:{tmp_path}", pretrained=True, **{other: "nlrelu"})


def test_batch_norm_and_layer_act_are_fused() -> None:
    model = create("cnn16_bn_lasilu").eval()
    plain = unfuse(copy.deepcopy(model))
    assert type(plain.stages[0][0]) is not type(model.stages[0][0])
    x = images(model)
    torch.testing.assert_close(model(x), plain(x))


@each_kind
def test_torchscript(name: str) -> None:
    model = create(name).eval()
    with scripting():
        scripted = torch.jit.script(model)
    torch.testing.assert_close(scripted(images(model)), model(images(model)))
