"""``act_layer="lasilu"`` in timm's own architectures: the name arrives everywhere it should, and survives saving."""

from functools import partial

import pytest
import timm
import torch
from timm.layers import create_act
from timm.models import nfnet, save_for_hf
from torch import nn

from timm_layeract import LAHardSiLU, LASiLU, LayerAct
from timm_layeract.checkpoints.fingerprint import activation_fingerprint
from timm_layeract.registry import _NFNET_GAINS

GATES = {"Sigmoid()", "Hardsigmoid()"}
# Architecture -> (arguments, activations that timm fixes itself: inside squeeze-and-excitation gates).
FAMILIES: dict[str, tuple[dict[str, object], set[str]]] = {
    "convnext_atto": ({}, set()),
    "cspresnet50": ({}, set()),
    "deit_tiny_distilled_patch16_224": (dict(img_size=32, depth=2), set()),
    "densenet121": ({}, set()),
    "efficientnet_b0": ({}, GATES),
    "lcnet_035": ({}, GATES | {"ReLU()"}),
    "mobilenetv3_small_050": ({}, GATES | {"ReLU()"}),
    "mobileone_s0": ({}, set()),
    "mobilevit_xxs": ({}, set()),
    "nfnet_l0": ({}, GATES | {"ReLU()"}),
    "nf_regnet_b0": ({}, GATES | {"ReLU()"}),
    "regnetx_002": ({}, set()),
    "resnetv2_18": ({}, set()),
    "resnest14d": ({}, {"ReLU()"}),
    "rexnet_100": ({}, GATES | {"ReLU()", "ReLU6(min_val=0, max_val=6)"}),
    "test_resnet": ({}, set()),
    "vit_tiny_patch16_224": (dict(img_size=32, depth=2), set()),
    "vovnet39a": ({}, set()),
}


def logits(model: nn.Module, size: int = 32) -> torch.Tensor:
    x = torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        return model.eval()(x)


@pytest.mark.parametrize("name", FAMILIES)
def test_name_reaches_every_activation_and_survives_saving(name, tmp_path):
    kwargs, fixed = FAMILIES[name]
    torch.manual_seed(0)
    model = timm.create_model(name, act_layer="lasilu", num_classes=5, **kwargs)
    sites = activation_fingerprint(model)
    assert any(isinstance(module, LASiLU) for module in model.modules())
    assert set(sites.values()) - fixed == {"LASiLU(alpha=1e-05)"}
    expected = logits(model)
    assert expected.isfinite().all()
    save_for_hf(model, str(tmp_path), safe_serialization=True)
    loaded = timm.create_model(f"local-dir:{tmp_path}", pretrained=True)
    assert activation_fingerprint(loaded) == sites
    torch.testing.assert_close(logits(loaded), expected, rtol=0, atol=0)


@pytest.mark.parametrize("name", ["vgg11", "fasternet_t0", "inception_next_atto", "ghostnet_050", "dla46_c"])
def test_families_that_take_no_name_say_so(name):
    """These call their `act_layer`, or have none: timm's own names fail there as well, and none is ignored."""
    for act_layer in ("lasilu", "gelu"):
        with pytest.raises(TypeError, match=r"'str' object is not callable|unexpected keyword argument 'act_layer'"):
            timm.create_model(name, act_layer=act_layer, device="meta")


def test_functional_activations_of_normalizer_free_networks(tmp_path):
    torch.manual_seed(0)
    model = timm.create_model("dm_nfnet_f0", act_layer="lasilu", num_classes=5)
    called = {module.act_fn for module in model.modules() if isinstance(module, nfnet.GammaAct)}
    assert [act.args[0].alpha for act in called] == [1e-5]
    assert logits(model).isfinite().all()
    y = torch.randn(2, 8, 4, 4)
    gain = nfnet._nonlin_gamma["lasilu"]
    torch.testing.assert_close(nfnet.act_with_gamma("lasilu", gain)(inplace=True)(y), gain * LASiLU()(y))


@pytest.mark.parametrize("name", _NFNET_GAINS)
def test_gain_makes_unit_variance(name):
    y = torch.randn(1, 200_000, generator=torch.Generator().manual_seed(0))
    scaled = create_act.get_act_layer(name)()(y) * nfnet._nonlin_gamma[name]
    assert float(scaled.std()) == pytest.approx(1, abs=0.005)


@pytest.mark.parametrize(
    ("name", "kind", "alpha"),
    [
        ("lasilu", LASiLU, 1e-5),
        ("lahardsilu", LAHardSiLU, 1e-5),
        ("lasilu_imagenet", LASiLU, 0.1),
        ("lahardsilu_imagenet", LAHardSiLU, 0.1),
    ],
)
def test_names_build_what_they_say(name, kind, alpha):
    activation = create_act.create_act_layer(name, inplace=True)
    assert type(activation) is kind
    assert activation.alpha == alpha


@pytest.mark.parametrize("act_layer", [LASiLU, partial(LayerAct, "hardsigmoid", alpha=0.2)])
def test_a_class_works_too_but_timm_refuses_to_save_it(act_layer, tmp_path):
    model = timm.create_model("test_resnet", act_layer=act_layer)
    assert logits(model).isfinite().all()
    with pytest.raises(ValueError, match="act_layer"):
        save_for_hf(model, str(tmp_path), safe_serialization=True)
