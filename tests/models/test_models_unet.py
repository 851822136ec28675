"""U-Net and UNet++: the published networks, timm's contract as far as a dense output has one, and lossless saving."""

import pytest
import timm
import torch
from timm.models import group_parameters, save_for_hf
from torch import Tensor, nn

import timm_layeract
from tests.scripting import scripting
from timm_layeract.checkpoints.fingerprint import ActivationMismatchError, activation_fingerprint
from timm_layeract.models import unet_layeract
from timm_layeract.models._unet_parts import Node

OURS = timm.list_models(module="unet_layeract")
KINDS = [
    "unet",
    "unet_nobn_lasilu",
    "unet_lahardsilu",
    "unetplusplus_lasilu",
    "unetplusplus_dsv_nobn_silu",
    "unet_nrelu",
]
each_kind = pytest.mark.parametrize("name", KINDS)
ACTIVATIONS = {
    "": "ReLU()",
    "_silu": "SiLU()",
    "_lasilu": "LASiLU(alpha=1e-05)",
    "_lahardsilu": "LAHardSiLU(alpha=1e-05)",
    "_nrelu": "NormalizedAct(centered=True, momentum=0.1, lower=0.2, upper=5, base=ReLU())",
    "_nswish": "NormalizedAct(centered=True, momentum=0.1, lower=0.2, upper=5, base=SiLU())",
}


def create(name: str, **kwargs: object) -> nn.Module:
    """A network of a quarter of its width, off its initial values."""
    torch.manual_seed(0)
    model = timm.create_model(name, **{"width": 8, **kwargs})
    with torch.no_grad():
        for tensor in model.state_dict().values():
            if tensor.is_floating_point():
                tensor.add_(torch.randn_like(tensor), alpha=0.01)
    return model.eval()


def images(*size: int) -> Tensor:
    return torch.randn(size or (2, 3, 32, 48), generator=torch.Generator().manual_seed(1))


# Zhou et al. 2018, table 3 (in millions); the width of 64 is Ronneberger's, at 31.03 million.
@pytest.mark.parametrize(
    ("name", "millions"), [("unet_nobn", 7.76), ("unetplusplus_nobn", 9.04), ("unet_w64_nobn", 31.03)]
)
def test_size_is_the_published_one(name, millions):
    model = timm.create_model(name, device="meta", dtype=torch.float32)
    assert sum(parameter.numel() for parameter in model.parameters()) / 1e6 == pytest.approx(millions, abs=0.006)


@pytest.mark.parametrize("name", OURS)
def test_name_says_the_network(name):
    model = timm.create_model(name, device="meta", dtype=torch.float32).eval()
    suffix = name.rpartition("_")[2]
    expected = ACTIVATIONS.get(f"_{suffix}", "ReLU()")
    assert set(activation_fingerprint(model).values()) == {expected}
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    assert bool(norms) != ("nobn" in name)
    assert all(norm.affine != (suffix in ("nrelu", "nswish")) for norm in norms)
    assert model.encoder[0].conv1.out_channels == (64 if "w64" in name else 32)
    assert len(model.heads) == (4 if "dsv" in name else 1)
    cfg, keys = model.pretrained_cfg, model.state_dict().keys()
    classifiers = [cfg["classifier"]] if isinstance(cfg["classifier"], str) else cfg["classifier"]
    assert [f"{layer}.weight" in keys for layer in (*classifiers, cfg["first_conv"])]
    assert model(torch.empty(1, 3, 48, 32, device="meta")).shape == (1, 1, 48, 32)


def test_every_combination_is_registered():
    assert len(OURS) == 3 * len(unet_layeract.WIDTHS) * len(unet_layeract.NORMS) * len(ACTIVATIONS)


def run(node: Node, below: Tensor, skips: list[Tensor]) -> Tensor:
    """A node by the papers' words, from its parameters alone (no normalisation, SiLU)."""
    up = torch.nn.functional.conv_transpose2d(below, node.up.weight, node.up.bias, stride=2)
    x = torch.cat([*skips, up], 1)
    for conv in (node.block.conv1, node.block.conv2):
        x = torch.nn.functional.conv2d(x, conv.weight, conv.bias, padding=1)
        x = x * x.sigmoid()
    return x


def test_unetplusplus_is_the_papers_recursion():
    model = create("unetplusplus_dsv_nobn_silu", eval_depth=4).double()
    x = images().double()
    with torch.no_grad():
        column = model.encode(x)

        def node(i: int, j: int) -> Tensor:
            if j == 0:
                return column[i]
            return run(model.nodes[j - 1][i], node(i + 1, j - 1), [node(i, k) for k in range(j)])

        for depth in (1, 2, 3, 4):
            model.set_eval_depth(depth)
            torch.testing.assert_close(model(x), model.heads[depth - 1](node(0, depth)))


def test_unet_joins_each_level_once():
    model = create("unet_nobn_silu").double()
    x = images().double()
    with torch.no_grad():
        *skips, below = model.encode(x)
        for node in model.nodes:
            below = run(node, below, [skips.pop()])
        torch.testing.assert_close(model(x), model.heads[0](below))


def test_encoder_halves_and_doubles():
    model = create("unet_nobn_silu")
    features = model.encode(images())
    assert [tuple(f.shape[1:]) for f in features] == [(8 * 2**i, 32 // 2**i, 48 // 2**i) for i in range(5)]
    bottom = nn.functional.max_pool2d(features[3], 2)
    torch.testing.assert_close(features[4], model.encoder[4](bottom))


def test_deep_supervision_gives_all_outputs_in_training_and_their_mean_in_evaluation():
    model = create("unetplusplus_dsv_nobn_silu", num_classes=3)
    x = images()
    with torch.no_grad():
        outputs = model.train()(x)
        assert outputs.shape == (4, 2, 3, 32, 48)
        torch.testing.assert_close(model.eval()(x), sum(outputs) / 4)


@pytest.mark.parametrize("depth", [1, 2, 3, 4])
def test_pruned_evaluation_skips_the_nodes_it_does_not_need(depth):
    model = create("unetplusplus_dsv_lasilu")
    x = images()
    with torch.no_grad():
        full = model.forward_head(model.forward_features(x), pre_logits=True)[depth - 1]
        expected = model.heads[depth - 1](full)
        ran = []
        for module in (*model.encoder, *(node for column in model.nodes for node in column)):
            module.register_forward_hook(lambda module, *_: ran.append(module))
        model.set_eval_depth(depth)
        torch.testing.assert_close(model(x), expected)
    assert len(ran) == (depth + 1) * (depth + 2) / 2
    assert len(model.train()(x)) == 4


def test_eval_depth_is_checked_and_saved(tmp_path):
    with pytest.raises(ValueError, match=r"\[1, 4\], got 5"):
        create("unetplusplus_dsv").set_eval_depth(5)
    with pytest.raises(ValueError, match="Without deep supervision"):
        create("unetplusplus", eval_depth=2)
    model = create("unetplusplus_dsv_lasilu")
    model.set_eval_depth(2)
    timm_layeract.save_pretrained(model, tmp_path)
    loaded = timm.create_model(f"local-dir:{tmp_path}", pretrained=True).eval()
    assert loaded.eval_depth == 2
    torch.testing.assert_close(loaded(images()), model(images()), rtol=0, atol=0)


@each_kind
@pytest.mark.parametrize("size", [(16, 16), (37, 50), (16, 47)])
def test_any_size(name, size):
    model = create(name)
    with torch.no_grad():
        assert model(images(1, 3, *size)).shape == (1, 1, *size)


@each_kind
def test_fused_is_plain_in_value_and_gradient(name):
    fused, plain = create(name), create(name, fused=False)
    plain.load_state_dict(fused.state_dict())
    assert type(plain.encoder[0]) is nn.Sequential
    assert (type(fused.encoder[0]) is not nn.Sequential) == ("la" in name.rpartition("_")[2])
    outputs = [model.train()(images()) for model in (fused, plain)]
    torch.testing.assert_close(*outputs, rtol=1e-4, atol=1e-4)
    for output in outputs:
        output.square().mean().backward()
    gradients = [{key: p.grad for key, p in model.named_parameters()} for model in (fused, plain)]
    torch.testing.assert_close(*gradients, rtol=1e-3, atol=1e-4)
    with torch.no_grad():
        folded = timm_layeract.fuse(fused.eval(), inference=True)
        output = fused(images())
        scale = output.abs().max()  # large behind normalized activations, as BatchNorm's running values lag
        torch.testing.assert_close(folded(images()) / scale, output / scale, rtol=1e-4, atol=1e-4)


@each_kind
def test_checkpointing_changes_nothing(name):
    model = create(name, norm_layer=None).train()
    gradients = []
    for enabled in (False, True):
        model.set_grad_checkpointing(enabled)
        model.zero_grad()
        model(images()).square().mean().backward()
        gradients.append({key: parameter.grad for key, parameter in model.named_parameters()})
    torch.testing.assert_close(*gradients)
    assert all(gradient.isfinite().all() for gradient in gradients[0].values())


@each_kind
def test_round_trip_with_other_arguments(name, tmp_path):
    model = create(name, num_classes=3, in_chans=1, drop_rate=0.3)
    model.reset_classifier(2)
    save_for_hf(model, str(tmp_path), safe_serialization=True)
    loaded = timm.create_model(f"local-dir:{tmp_path}", pretrained=True).eval()
    assert activation_fingerprint(loaded) == activation_fingerprint(model)
    x = images(1, 1, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(loaded(x), model(x), rtol=0, atol=0)
        other = timm.create_model(f"local-dir:{tmp_path}", pretrained=True, num_classes=5, in_chans=3).eval()
        assert other(images()).shape == (2, 5, 32, 48)
    torch.testing.assert_close(other.encoder[1].state_dict(), model.encoder[1].state_dict())
    which, another = ("normalized_act", "nlrelu") if name.endswith("_nrelu") else ("act_layer", "mish")
    with pytest.raises(ActivationMismatchError):
        timm.create_model(f"local-dir:{tmp_path}", pretrained=True, **{which: another})


@each_kind
def test_features(name):
    model = create(name)
    x = images()
    with torch.no_grad():
        output, features = model.forward_intermediates(x)
        torch.testing.assert_close(model.forward_head(output), model(x))
        wrapped = timm.create_model(name, width=8, features_only=True, out_indices=(0, 2)).eval()
        missing = wrapped.model.load_state_dict(model.state_dict(), strict=False).missing_keys
        assert not missing
        torch.testing.assert_close(wrapped(x), [features[0], features[2]])
    assert wrapped.feature_info.reduction() == [1, 4]
    assert len(list(wrapped.model.encoder)) == 3
    assert create(name, num_classes=0)(x) is not None


def test_an_smp_architecture_takes_the_encoder():
    smp = pytest.importorskip("segmentation_models_pytorch")
    model = smp.Unet("tu-unet_lasilu", encoder_weights=None, encoder_depth=4, decoder_channels=(32, 16, 8, 8)).eval()
    assert model(images(1, 3, 64, 64)).shape == (1, 1, 64, 64)


@each_kind
def test_parameters_fall_into_groups_of_rising_depth(name):
    groups = group_parameters(create(name), create(name).group_matcher(), reverse=True)
    assert set(groups) == dict(create(name).named_parameters()).keys()
    assert groups["encoder.0.conv1.weight"] == 0
    assert groups["encoder.1.conv1.weight"] < groups["encoder.4.conv1.weight"]
    node = next(key for key in groups if key.startswith("nodes"))
    assert groups["encoder.4.conv1.weight"] < groups[node] < groups["heads.0.weight"]


@pytest.mark.parametrize("name", ["unet", "unet_nobn_lasilu", "unet_lahardsilu"])
def test_torchscript(name):
    model = create(name)
    with scripting():
        scripted = torch.jit.script(model)
    with torch.no_grad():
        x = images(1, 3, 37, 50)
        torch.testing.assert_close(scripted(x), model(x), rtol=1e-4, atol=1e-4)


@each_kind
def test_export_channels_last_and_bfloat16(name):
    model = create(name)
    x = images()
    with torch.no_grad():
        exported = torch.export.export(model, (x,)).module()
        torch.testing.assert_close(exported(x), model(x), rtol=1e-4, atol=1e-4)
        expected = model(x)
        model.to(memory_format=torch.channels_last)
        torch.testing.assert_close(model(x.to(memory_format=torch.channels_last)), expected, rtol=1e-4, atol=1e-4)
        assert model.to(torch.bfloat16)(x.bfloat16()).dtype == torch.bfloat16


def test_initialisation_keeps_the_variance_without_normalisation():
    torch.manual_seed(0)
    model = timm.create_model("unet_nobn").eval()
    first = model.encoder[1].conv1.weight
    assert float(first.detach().std()) == pytest.approx((2 / (9 * 32)) ** 0.5, rel=0.05)
    with torch.no_grad():
        features = model.encode(images(1, 3, 64, 64))
        deepest, output = features[-1], model.decode(features)
    assert 0.2 < float(deepest.square().mean()) < 5
    assert 0.2 < float(output.square().mean()) < 5
