"""`timm_layeract.registry`: names in timm, registering one's own, and what is refused."""

from collections.abc import Iterator
from functools import partial

import pytest
import timm
import torch
from timm.layers import create_act, create_act_layer, get_act_layer
from torch import nn

import timm_layeract
from timm_layeract import registry
from timm_layeract.checkpoints.fingerprint import activation_fingerprint
from timm_layeract.errors import UserError
from timm_layeract.layers import UnbiasedLayerAct
from timm_layeract.registry import activation_factory, list_activations, register_activation

LAYER_LEVEL = [
    "affine_lahardsilu",
    "affine_lasilu",
    "lahardsilu",
    "lahardsilu_imagenet",
    "lahardsilu_imagenet_unbiased",
    "lahardsilu_unbiased",
    "lasilu",
    "lasilu_imagenet",
    "lasilu_imagenet_unbiased",
    "lasilu_unbiased",
]
NORMALIZED = ["nlrelu", "nlrelu_uncentered", "nrelu", "nrelu_uncentered", "nswish", "nswish_uncentered"]
OURS = [*LAYER_LEVEL, "leaky_relu_gpn", *NORMALIZED, "relu_gpn"]


@pytest.fixture
def restored() -> Iterator[None]:
    """Leave the tables, ours and timm's, as they were."""
    tables = (registry._OURS, create_act._ACT_LAYER_DEFAULT)
    saved = [dict(table) for table in tables]
    yield
    for table, before in zip(tables, saved, strict=True):
        table.clear()
        table.update(before)


def test_list_activations() -> None:
    assert list_activations() == OURS == timm_layeract.list_activations()


@pytest.mark.parametrize("name", [*LAYER_LEVEL, *NORMALIZED])
def test_names_resolve_in_timm(name: str) -> None:
    assert get_act_layer(name) is activation_factory(name)
    x = torch.randn(2, 3, 4, 4)
    for inplace in (None, True, False):
        module = create_act_layer(name, inplace=inplace)
        assert isinstance(module, timm_layeract.NormalizedAct if name in NORMALIZED else timm_layeract.LayerAct)
        before = x.clone()
        assert module(x).shape == x.shape
        assert torch.equal(x, before)
    assert type(get_act_layer(name.upper())()) is type(get_act_layer(name)())  # timm looks up in lower case


@pytest.mark.parametrize(
    ("name", "kind", "scale", "alpha"),
    [
        ("lasilu", timm_layeract.LASiLU, "sigmoid", 1e-5),
        ("lahardsilu", timm_layeract.LAHardSiLU, "hardsigmoid", 1e-5),
        ("lasilu_imagenet", timm_layeract.LASiLU, "sigmoid", 0.1),
        ("lahardsilu_imagenet", timm_layeract.LAHardSiLU, "hardsigmoid", 0.1),
        ("lasilu_unbiased", UnbiasedLayerAct, "sigmoid", 1e-5),
        ("lahardsilu_imagenet_unbiased", UnbiasedLayerAct, "hardsigmoid", 0.1),
        ("affine_lasilu", timm_layeract.LazyLayerAct, "sigmoid", 1e-5),
        ("affine_lahardsilu", timm_layeract.LazyLayerAct, "hardsigmoid", 1e-5),
    ],
)
def test_what_a_name_builds(name: str, kind: type[nn.Module], scale: str, alpha: float) -> None:
    module = create_act_layer(name)
    assert type(module) is kind
    assert module.scale == scale
    assert module.alpha == alpha


@pytest.mark.parametrize("architecture", ["resnet10t", "test_efficientnet", "test_convnext", "test_vit"])
def test_timm_models_take_the_name(architecture: str) -> None:
    model = timm.create_model(architecture, act_layer="lasilu", num_classes=3).eval()
    sites = activation_fingerprint(model)
    assert "LASiLU(alpha=1e-05)" in sites.values()
    assert model(torch.randn(1, *model.default_cfg["input_size"])).shape == (1, 3)


def test_factories_by_name_in_any_case() -> None:
    assert activation_factory("lasilu") is activation_factory("LASiLU") is timm_layeract.LASiLU
    assert activation_factory("relu") is nn.ReLU


@pytest.mark.parametrize(
    ("typo", "hint"),
    [
        ("lasillu", "did you mean 'lasilu'"),
        ("LASILLU", "did you mean 'lasilu'"),
        ("gelutanh", "'gelu_tanh'"),
        ("zzzzzz", "none of the .* names is close"),
    ],
)
def test_a_typo_gives_close_names(typo: str, hint: str) -> None:
    with pytest.raises(UserError, match=f"Unknown activation '{typo}'; .*{hint}"):
        activation_factory(typo)


class Sine(nn.Module):
    def __init__(self, inplace: bool = False, frequency: float = 1.0) -> None:
        super().__init__()
        self.frequency = frequency

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.sin(self.frequency * x)


@pytest.mark.usefixtures("restored")
def test_registering_ones_own() -> None:
    register_activation("sine", Sine)
    register_activation("fast_sine", partial(Sine, frequency=3.0))
    assert {"sine", "fast_sine"} <= set(list_activations())
    model = timm.create_model("resnet10t", act_layer="fast_sine")
    assert set(activation_fingerprint(model).values()) == {"Sine(frequency=3)"}


@pytest.mark.usefixtures("restored")
def test_a_partial_alone_teaches_the_fingerprint_its_class() -> None:
    assert activation_fingerprint(nn.Sequential(Sine())) == {}
    register_activation("fast_sine", partial(Sine, frequency=3.0))
    assert activation_fingerprint(nn.Sequential(Sine())) == {"0": "Sine(frequency=1)"}


def test_the_registry_was_restored() -> None:
    assert list_activations() == OURS
    assert "sine" not in create_act._ACT_LAYER_DEFAULT


@pytest.mark.usefixtures("restored")
@pytest.mark.parametrize("name", ["lasilu", "relu", "hardswish"])
def test_a_taken_name_is_refused(name: str) -> None:
    before = dict(create_act._ACT_LAYER_DEFAULT)
    with pytest.raises(ValueError, match=f"'{name}' is taken"):
        register_activation(name, Sine)
    assert before == create_act._ACT_LAYER_DEFAULT


@pytest.mark.usefixtures("restored")
def test_upper_case_is_refused() -> None:
    with pytest.raises(ValueError, match="register 'sine', not 'Sine'"):
        register_activation("Sine", Sine)
    assert "Sine" not in list_activations()
