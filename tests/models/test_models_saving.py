"""A model of ours, saved and loaded, computes the same or is refused: its activations never change in silence.

Through timm's own `save_for_hf` and ``local-dir:``, which know nothing of activations.
"""

import json

import pytest
import timm
import torch
from safetensors.torch import save_file
from timm.models import save_for_hf
from torch import nn

from timm_layeract import models
from timm_layeract.checkpoints.fingerprint import ActivationMismatchError, activation_fingerprint
from timm_layeract.checkpoints.save import FINGERPRINT_KEY

# One of each family: CIFAR (with parametric and layer-level activations), basic, bottleneck and d stem, grouped, SE.
SAVED = [
    "resnet20",
    "resnet20_prelu",
    "resnet20_lasilu",
    "resnet18_lahardsilu",
    "resnet26d_lasilu",
    "seresnet50_lasilu",
    "resnet20_nrelu",
    "resnet18_nswish",
]
SHIPPED = timm.list_models(module=[name for name in models.__all__ if name != "unet_layeract"], pretrained=True)


def trained(name: str, **kwargs: object) -> nn.Module:
    """A model whose parameters and statistics are all off their initial values."""
    torch.manual_seed(0)
    model = timm.create_model(name, **kwargs)
    with torch.no_grad():
        for tensor in model.state_dict().values():
            if tensor.is_floating_point():
                tensor.add_(torch.rand_like(tensor), alpha=0.01)
    return model.eval()


def logits(model: nn.Module) -> torch.Tensor:
    x = torch.randn(2, model.in_chans, 32, 32, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        return model.eval()(x)


def save(model: nn.Module, folder) -> str:
    save_for_hf(model, str(folder), safe_serialization=True)
    return f"local-dir:{folder}"


@pytest.mark.parametrize("name", SAVED)
def test_round_trip(name, tmp_path):
    model = trained(name, num_classes=7, in_chans=1, global_pool="max", drop_rate=0.3)
    model.reset_classifier(5)
    loaded = timm.create_model(save(model, tmp_path), pretrained=True)
    assert type(loaded) is type(model)
    assert activation_fingerprint(loaded) == activation_fingerprint(model)
    torch.testing.assert_close(logits(loaded), logits(model), rtol=0, atol=0)
    again = timm.create_model(save(loaded, tmp_path / "again"), pretrained=True)
    torch.testing.assert_close(logits(again), logits(model), rtol=0, atol=0)


def test_saved_config_names_architecture_and_activations(tmp_path):
    model = trained("resnet20_lasilu")
    save(model, tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["architecture"] == "resnet20_lasilu"
    assert config["model_args"]["activations"] == activation_fingerprint(model)


def test_loading_takes_another_head_other_channels_and_features(tmp_path):
    model = trained("resnet20_lasilu")
    source = save(model, tmp_path)
    other = timm.create_model(source, pretrained=True, num_classes=3, in_chans=1)
    assert logits(other).shape == (2, 3)
    torch.testing.assert_close(other.conv1.weight, model.conv1.weight.sum(1, keepdim=True))
    torch.testing.assert_close(other.layer3.state_dict(), model.layer3.state_dict())
    features = timm.create_model(source, pretrained=True, features_only=True).eval()
    x = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        expected = model.forward_features(x)
        torch.testing.assert_close(features(x)[-1], expected, rtol=0, atol=1e-6 * float(expected.abs().max()))


def test_activation_argument_round_trips_when_it_is_a_name(tmp_path):
    model = trained("resnet20", act_layer="lahardsilu_imagenet")
    loaded = timm.create_model(save(model, tmp_path), pretrained=True)
    assert set(activation_fingerprint(loaded).values()) == {"LAHardSiLU(alpha=0.1)"}
    torch.testing.assert_close(logits(loaded), logits(model), rtol=0, atol=0)


@pytest.mark.parametrize("name", ["resnet20_lasilu", "resnet18_lasilu"])
def test_activation_replaced_by_hand_is_refused_on_loading(name, tmp_path):
    model = trained(name)
    model.layer1[0].act1 = nn.ReLU()
    with pytest.raises(ActivationMismatchError, match=r"layer1\.0\.act1: ReLU\(\) expected, LASiLU"):
        timm.create_model(save(model, tmp_path), pretrained=True)


def test_another_activation_on_loading_is_refused(tmp_path):
    source = save(trained("resnet20_lasilu"), tmp_path)
    for other in ("relu", "lahardsilu", "lasilu_imagenet"):
        with pytest.raises(ActivationMismatchError, match=r"and 17 more"):
            timm.create_model(source, pretrained=True, act_layer=other)


def test_weight_file_carries_its_fingerprint(tmp_path):
    model = trained("resnet20_lasilu")
    file = tmp_path / "weights.safetensors"
    save_file(model.state_dict(), file, metadata={FINGERPRINT_KEY: json.dumps(activation_fingerprint(model))})
    overlay = dict(file=str(file))
    loaded = timm.create_model("resnet20_lasilu", pretrained=True, pretrained_cfg_overlay=overlay)
    torch.testing.assert_close(logits(loaded), logits(model), rtol=0, atol=0)
    with pytest.raises(ActivationMismatchError, match=r"weights\.safetensors"):
        timm.create_model("resnet20", pretrained=True, pretrained_cfg_overlay=overlay)


def test_relu_checkpoint_without_fingerprint_starts_an_imagenet_model(tmp_path):
    stock = trained("resnet18")
    file = tmp_path / "resnet18.safetensors"
    save_file(stock.state_dict(), file)
    ours = timm.create_model("resnet18_lasilu", pretrained=True, pretrained_cfg_overlay=dict(file=str(file)))
    torch.testing.assert_close(ours.state_dict(), stock.state_dict())


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_weights_load(name):
    cfg = timm.get_pretrained_cfg(name)
    model = timm.create_model(name, pretrained=True)
    assert model.pretrained_cfg["tag"] == cfg.tag
    assert logits(model).shape == (2, cfg.num_classes)
    changed = timm.create_model(name, pretrained=True, in_chans=1, num_classes=5)
    assert logits(changed).shape == (2, 5)
    torch.testing.assert_close(changed.layer1.state_dict(), model.layer1.state_dict())
    assert timm.create_model(name, pretrained=True, num_classes=0).num_classes == 0
    timm.create_model(name, pretrained=True, features_only=True)
