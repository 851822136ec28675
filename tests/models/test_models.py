"""timm's model contract over every ResNet of ours: being registered is enough to be tested.

What only needs structure runs on the meta device for all of them; what needs numbers runs at 32 to 64 px for one
architecture of each kind (`KINDS`), and for the others where it is marked slow.
"""

import copy
import pickle

import pytest
import timm
import torch
from timm.layers import set_scriptable
from timm.models import get_notrace_functions, get_notrace_modules, group_parameters
from timm.optim import create_optimizer_v2
from torch import Tensor, nn
from torchvision.models.feature_extraction import create_feature_extractor, get_graph_node_names

from tests.scripting import scripting
from timm_layeract.checkpoints.fingerprint import activation_fingerprint

OURS = timm.list_models(module=["resnet_cifar", "resnet_layeract"])
KINDS = [
    "resnet20",
    "resnet20_prelu",
    "resnet20_lasilu",
    "resnet20_lahardsilu",
    "resnet18_lasilu",
    "resnet18d_lahardsilu",
    "resnet26d_lasilu",
    "resnext50_32x4d_lahardsilu",
    "seresnet50_lasilu",
    "resnet20_nrelu",
    "resnet18_nswish",
]
# What another activation cannot change is tested once: `_nswish` networks are built like the `_nrelu` ones, and the
# numbers of an architecture come from its `_lasilu` network.
BUILT = [name for name in OURS if name in KINDS or not name.endswith("_nswish")]
COMPUTED = [name for name in BUILT if name in KINDS or name.endswith("_lasilu")]
KINDS_THEN_ALL = [name if name in KINDS else pytest.param(name, marks=pytest.mark.slow) for name in COMPUTED]
every_model = pytest.mark.parametrize("name", BUILT)
each_kind = pytest.mark.parametrize("name", KINDS)
each_kind_then_all = pytest.mark.parametrize("name", KINDS_THEN_ALL)


def create(name: str, **kwargs: object) -> nn.Module:
    torch.manual_seed(0)
    return timm.create_model(name, **kwargs)


def create_meta(name: str, **kwargs: object) -> nn.Module:
    return timm.create_model(name, device="meta", dtype=torch.float32, **kwargs).eval()


def assert_alike(found: Tensor, expected: Tensor) -> None:
    """Equal but for rounding, of which a hundred layers that nothing has trained make more the larger their values."""
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5 * (1 + float(expected.abs().max())))


def images(model: nn.Module, batch: int = 2, size: int = 64) -> Tensor:
    _, height, width = model.pretrained_cfg["input_size"]
    generator = torch.Generator().manual_seed(1)
    return torch.randn(batch, model.in_chans, min(height, size), min(width, size), generator=generator)


def gradients(model: nn.Module, x: Tensor) -> dict[str, Tensor]:
    model.zero_grad()
    torch.manual_seed(2)
    model(x).square().mean().backward()
    return {name: parameter.grad for name, parameter in model.named_parameters()}


def test_kinds_are_registered_and_listed():
    assert set(KINDS) <= set(OURS)
    assert len(timm.list_models(module="resnet_cifar")) == 5 * 14
    assert len(timm.list_models(module="resnet_layeract")) == 17 * 4
    for suffix in ("lasilu", "lahardsilu", "nrelu", "nswish"):
        assert sum(name.endswith(f"_{suffix}") for name in OURS) == 17 + 5


@every_model
def test_declared_config_is_what_the_model_does(name):
    model = create_meta(name)
    cfg, keys = model.pretrained_cfg, model.state_dict().keys()
    assert timm.get_pretrained_cfg(name).input_size == cfg["input_size"]
    assert cfg["architecture"] == name
    assert model.num_classes == cfg["num_classes"]
    assert model.in_chans == cfg["input_size"][0] == len(cfg["mean"]) == len(cfg["std"])
    assert {(tensor.device.type) for tensor in model.state_dict().values()} == {"meta"}  # `device=` reaches all of it
    assert f"{cfg['classifier']}.weight" in keys
    assert f"{cfg['first_conv']}.weight" in keys
    assert model.get_submodule(cfg["first_conv"]).in_channels == 3
    assert model.get_classifier() is model.get_submodule(model.get_classifier(name_only=True))
    x = torch.empty(2, *cfg["input_size"], device="meta")
    features = model.forward_features(x)
    assert features.shape == (2, model.num_features, *cfg["pool_size"])
    assert model.forward_head(features).shape == (2, cfg["num_classes"])
    with pytest.raises(TypeError):
        create_meta(name, no_such_argument=1)


@each_kind
def test_heads(name):
    for kwargs in (dict(num_classes=0), dict(num_classes=0, global_pool=""), dict(global_pool="catavgmax")):
        built, reset = create_meta(name, **kwargs), create_meta(name)
        reset.reset_classifier(kwargs.get("num_classes", reset.num_classes), kwargs.get("global_pool"))
        features = torch.empty(1, built.num_features, 2, 2, device="meta")
        for model in (built, reset):
            pooled, logits = model.forward_head(features, pre_logits=True), model.forward_head(features)
            assert pooled.shape[1] == model.head_hidden_size
            assert logits.shape[1] == (model.num_classes or model.head_hidden_size)
            assert logits.dim() == (4 if kwargs.get("global_pool") == "" else 2)
        assert built.num_classes == reset.num_classes


@each_kind
def test_reset_classifier_keeps_pooling_device_dtype_mode_and_frozen_weights(name):
    model = create_meta(name, global_pool="max").to(torch.float64).requires_grad_(False)
    model.reset_classifier(0)
    assert not [key for key, parameter in model.named_parameters() if parameter.requires_grad]
    model.reset_classifier(5)
    assert model.global_pool.pool_type == "max"
    assert {(p.device.type, p.dtype) for p in model.fc.parameters()} == {("meta", torch.float64)}
    assert not any(module.training for module in model.modules())


@every_model
def test_features_have_the_channels_and_strides_declared(name):
    every = create_meta(name, features_only=True, in_chans=1)
    shapes = [tuple(feature.shape) for feature in every(torch.empty(1, 1, 64, 96, device="meta"))]
    declared = zip(every.feature_info.channels(), every.feature_info.reduction(), strict=True)
    assert shapes == [(1, channels, 64 // stride, 96 // stride) for channels, stride in declared]
    assert len(shapes) >= 3


@each_kind
@pytest.mark.parametrize("feature_cls", ["list", "dict", "getter", "hook", "fx"])
def test_out_indices(name, feature_cls):
    every = create(name, features_only=True).eval()
    chosen = create(name, features_only=True, out_indices=(0, -2), feature_cls=feature_cls).eval()
    x = images(every, size=32)
    with torch.no_grad():
        features, expected = chosen(x), every(x)
    features = list(features.values()) if isinstance(features, dict) else features
    torch.testing.assert_close(features, [expected[0], expected[-2]])
    assert chosen.feature_info.channels() == [feature.shape[1] for feature in features]


@each_kind
def test_output_stride(name):
    stride = create_meta(name).feature_info[-1]["reduction"] // 2
    model = create_meta(name, output_stride=stride)
    features = model.forward_features(torch.empty(1, 3, 64, 96, device="meta"))
    assert features.shape[-2:] == (64 // stride, 96 // stride)
    assert model.feature_info[-1]["reduction"] == stride
    with pytest.raises((AssertionError, ValueError)):
        create_meta(name, output_stride=3)


@every_model
def test_parameters_fall_into_groups_of_rising_depth(name):
    model = create_meta(name)
    stages = [stage for path, stage in model.named_children() if path.startswith("layer")]
    fine = group_parameters(model, model.group_matcher(coarse=False), reverse=True)
    coarse = group_parameters(model, model.group_matcher(coarse=True), reverse=True)
    assert set(fine) == set(coarse) == dict(model.named_parameters()).keys()
    assert len(set(fine.values())) == 1 + sum(map(len, stages)) + 1
    assert len(set(coarse.values())) == 1 + len(stages) + 1
    stem = f"{model.pretrained_cfg['first_conv']}.weight"
    assert fine[stem] == coarse[stem] == 0
    assert fine["fc.weight"] == max(fine.values())


@each_kind
def test_layer_decay(name):
    optimizer = create_optimizer_v2(create(name), opt="sgd", lr=0.1, weight_decay=1e-4, layer_decay=0.5)
    scales = {group["lr_scale"] for group in optimizer.param_groups}
    assert max(scales) == 1
    assert len(scales) > 2


@pytest.mark.parametrize("name", COMPUTED)
def test_forward(name):
    model = create(name).eval()
    with torch.no_grad():
        logits = model(images(model))
    assert logits.shape == (2, model.num_classes)
    assert logits.isfinite().all()


@each_kind_then_all
def test_backward_reaches_every_parameter_and_checkpointing_changes_nothing(name):
    model = create(name, num_classes=7).train()
    x = images(model, size=32)
    plain = gradients(model, x)
    assert all(grad is not None and grad.isfinite().all() for grad in plain.values())
    model.set_grad_checkpointing()
    torch.testing.assert_close(gradients(model, x), plain)
    model.set_grad_checkpointing(False)
    assert not model.grad_checkpointing


@each_kind_then_all
def test_torchscript(name):
    with set_scriptable(True):
        model = create(name).eval()
    x = images(model)
    with scripting():
        scripted = torch.jit.script(model)
    with torch.no_grad():
        assert_alike(scripted(x), model(x))


@each_kind_then_all
def test_fx(name):
    model = create(name, num_classes=7)
    tracer = dict(leaf_modules=get_notrace_modules(), autowrap_functions=get_notrace_functions())
    train_nodes, eval_nodes = get_graph_node_names(model, tracer_kwargs=tracer)
    traced = create_feature_extractor(
        model, train_return_nodes=[train_nodes[-1]], eval_return_nodes=[eval_nodes[-1]], tracer_kwargs=tracer
    )
    x = images(model, size=32)
    next(iter(traced.train()(x).values())).mean().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())
    with torch.no_grad():
        assert_alike(next(iter(traced.eval()(x).values())), model.eval()(x))


@each_kind
def test_the_ways_to_features_agree(name):
    model = create(name).eval()
    x = images(model)
    with torch.no_grad():
        output, features = model.forward_intermediates(x)
        torch.testing.assert_close(output, model.forward_features(x))
        torch.testing.assert_close(model.forward_head(output), model(x))
        torch.testing.assert_close(model.fc(model.forward_head(output, pre_logits=True)), model(x))
        last = len(features) - 1
        torch.testing.assert_close(list(model.get_intermediate_layers(x, n=2)), features[-2:])
        torch.testing.assert_close(list(model.get_intermediate_layers(x, n=[0, last])), [features[0], features[last]])
        early = model.forward_intermediates(x, indices=[1], stop_early=True, intermediates_only=True)
        torch.testing.assert_close(early, features[1:2])
        wrapped = create(name, features_only=True).eval()
        torch.testing.assert_close(wrapped(x), features)
        model.set_grad_checkpointing()
        torch.testing.assert_close(model.forward_intermediates(x, intermediates_only=True), features)
        with pytest.raises((AssertionError, ValueError), match="NCHW"):
            model.forward_intermediates(x, output_fmt="NLC")


@each_kind
def test_pruning_to_a_feature_keeps_it_and_drops_what_follows(name):
    model = create(name).eval()
    x = images(model)
    with torch.no_grad():
        features = model.forward_intermediates(x, intermediates_only=True)
        logits = model(x)
    for index, feature in enumerate(features):
        pruned = copy.deepcopy(model)
        assert pruned.prune_intermediate_layers([index]) == [index]
        with torch.no_grad():
            torch.testing.assert_close(pruned.forward_features(x), feature)
        pruned.train().forward_features(x).sum().backward()
        assert all(parameter.grad is not None for parameter in pruned.parameters())
        pruned.reset_classifier(3, "avg")
        assert pruned(x).shape == (2, 3)
    kept = copy.deepcopy(model)
    kept.prune_intermediate_layers([len(features) - 1], prune_head=False)
    with torch.no_grad():
        torch.testing.assert_close(kept(x), logits)


@each_kind
def test_drop_rates_act_in_training_only(name):
    plain, dropped = create(name).eval(), create(name, drop_rate=0.5, drop_path_rate=0.5).eval()
    dropped.load_state_dict(plain.state_dict())
    x = images(plain)
    with torch.no_grad():
        torch.testing.assert_close(dropped(x), plain(x))
        features = torch.ones(2, plain.num_features, 2, 2)
        assert (dropped.train().forward_head(features, pre_logits=True) == 0).any()
        for module in dropped.modules():
            if isinstance(module, nn.BatchNorm2d) and module.affine:
                nn.init.ones_(module.weight)  # residual branches start at zero
        torch.manual_seed(3)
        assert not torch.equal(dropped.forward_features(x), dropped.forward_features(x))


@each_kind
@pytest.mark.parametrize("copier", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))])
def test_copies_compute_the_same_and_know_their_arguments(name, copier):
    model = create(name, num_classes=7, in_chans=1).eval()
    twin = copier(model)
    x = images(model)
    with torch.no_grad():
        torch.testing.assert_close(twin(x), model(x), rtol=0, atol=0)
    assert activation_fingerprint(twin) == activation_fingerprint(model)
    assert timm.models.get_model_args(twin) == timm.models.get_model_args(model)


@each_kind
def test_memory_format_and_bfloat16(name):
    model = create(name).eval()
    x = images(model)
    with torch.no_grad():
        logits = model(x)
        channels_last = model.to(memory_format=torch.channels_last)(x.to(memory_format=torch.channels_last))
        torch.testing.assert_close(channels_last, logits, rtol=1e-4, atol=1e-4)
        assert model.to(torch.bfloat16)(x.bfloat16()).dtype == torch.bfloat16
