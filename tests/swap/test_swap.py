"""swap_activations on real networks and on hand-made ones that each hold one difficulty."""

import copy
import dataclasses
import pickle

import pytest
import segmentation_models_pytorch as smp
import timm
import torch
import torch.nn.functional as F
import torchvision
from timm.models import save_for_hf
from torch import nn
from torchvision.models.googlenet import Inception

import timm_layeract  # noqa: F401
from tests.functional_calls import IMAGE, SPELLINGS, network
from timm_layeract import LAHardSiLU, LASiLU, LayerAct
from timm_layeract.checkpoints.fingerprint import activation_fingerprint
from timm_layeract.swap import SwapReport, swap_activations


def types_of(model: nn.Module) -> dict[str, type]:
    return {path: type(module) for path, module in model.named_modules(remove_duplicate=False)}


def with_weights_of(model: nn.Module, other: nn.Module) -> nn.Module:
    model.load_state_dict(other.state_dict(), strict=True)
    return model.train(other.training)


# --- networks of the libraries --------------------------------------------------------------------------------------


def test_torchvision_resnet_equals_a_hand_made_one():
    model = torchvision.models.resnet18(weights=None, num_classes=5)
    before = copy.deepcopy(model.state_dict())
    report = swap_activations(model, "lasilu")
    assert len(report) == len(report.swapped) == 9  # two calls of one module in a block are one place
    assert not any(isinstance(module, nn.ReLU) for module in model.modules())
    assert model.state_dict().keys() == before.keys()
    by_hand = torchvision.models.resnet18(weights=None, num_classes=5)
    by_hand.relu = LASiLU()
    for layer in (by_hand.layer1, by_hand.layer2, by_hand.layer3, by_hand.layer4):
        for block in layer:
            block.relu = LASiLU()
    with_weights_of(by_hand, model)
    assert torch.equal(model.eval()(IMAGE), by_hand.eval()(IMAGE))


def test_torchvision_mobilenet_keeps_its_gates():
    model = torchvision.models.mobilenet_v3_small(weights=None, num_classes=5)
    report = swap_activations(model, LAHardSiLU)
    gates = {path for path, kind in types_of(model).items() if kind is nn.Hardsigmoid}
    assert gates
    assert {entry.path for entry in report.left_alone} == gates
    assert all("gate" in entry.reason for entry in report.left_alone)
    assert not {nn.ReLU, nn.Hardswish} & set(types_of(model).values())
    assert model.eval()(IMAGE).shape == (2, 5)


def densenet() -> nn.Module:
    return torchvision.models.DenseNet(4, (1, 2), 8, num_classes=5)


def inception_block() -> nn.Module:
    return Inception(3, 4, 4, 4, 4, 4, 4)


@pytest.mark.parametrize("build", [densenet, inception_block])
def test_torchvision_functional_calls(build):
    model = build().eval()
    keys, kind = list(model.state_dict()), type(model)
    before = model(IMAGE)
    report = swap_activations(model, "lasilu")
    functional = [entry.path for entry in report.swapped if "functional_relu" in entry.path]
    assert functional
    assert all(isinstance(model.get_submodule(path), LASiLU) for path in functional)
    assert isinstance(model, kind)
    assert list(model.state_dict()) == keys
    after = model(IMAGE)
    assert not torch.allclose(before, after)
    assert torch.equal(copy.deepcopy(model)(IMAGE), after)
    assert torch.equal(pickle.loads(pickle.dumps(model))(IMAGE), after)
    # and back: what were functions are modules now, so that the original comes back exactly
    swap_activations(model, "relu")
    assert torch.equal(model(IMAGE), before)


@pytest.mark.parametrize("name", ["regnetx_002", "test_efficientnet", "convnext_atto", "test_vit", "resnet10t"])
def test_timm_equals_act_layer(name):
    torch.manual_seed(0)
    size = {"test_vit": 160}.get(name, 64)
    image = F.interpolate(IMAGE, size)
    model = timm.create_model(name, num_classes=5).eval()
    swap_activations(model, "lasilu")
    built = timm.create_model(name, num_classes=5, act_layer="lasilu")
    # timm's act_layer leaves some of a squeeze-excitation's activations alone; there are none in these
    assert activation_fingerprint(model) == activation_fingerprint(built)
    assert torch.equal(model(image), with_weights_of(built, model)(image))


def test_timm_norm_act_layers():
    model = timm.create_model("regnety_002")
    before = types_of(model)
    report = swap_activations(model, "lasilu", include="*.bn.act")
    assert {before[e.path.removesuffix(".act")].__name__ for e in report.swapped} == {"BatchNormAct2d"}
    assert all(isinstance(model.get_submodule(e.path), LASiLU) for e in report.swapped)
    assert {e.reason for e in report.left_alone} == {"not included", "a gate or an output, not a hidden activation"}


def test_smp_head_is_left_alone():
    model = smp.Unet("resnet18", encoder_weights=None, activation="sigmoid").eval()
    report = swap_activations(model, "lasilu")
    assert [(e.path, e.reason) for e in report.left_alone] == [
        ("segmentation_head.2.activation", "activation of the output head")
    ]
    assert isinstance(model.segmentation_head[2].activation, nn.Sigmoid)
    assert {e.path.split(".")[0] for e in report.swapped} == {"encoder", "decoder"}
    hidden = smp.Unet("resnet18", encoder_weights=None, activation=nn.ReLU)
    assert swap_activations(hidden, "lasilu").left_alone[0].path == "segmentation_head.2.activation"


def test_smp_refuses_to_save(tmp_path):
    model = smp.Unet("resnet18", encoder_weights=None)
    swap_activations(model, "lasilu")
    with pytest.raises(TypeError, match="SwappedActivations is not JSON serializable"):
        model.save_pretrained(tmp_path)
    assert not list(tmp_path.glob("config.json")) or not (tmp_path / "config.json").read_text()


def test_transformers():
    transformers = pytest.importorskip("transformers")
    size = dict(hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32)
    model = transformers.BertModel(transformers.BertConfig(**size, vocab_size=20)).eval()
    report = swap_activations(model, "lasilu")
    assert [e.path for e in report.swapped] == [f"encoder.layer.{i}.intermediate.intermediate_act_fn" for i in (0, 1)]
    assert [e.path for e in report.left_alone] == ["pooler.activation"]
    assert model(torch.arange(10).reshape(2, 5)).last_hidden_state.isfinite().all()
    vit = transformers.ViTModel(transformers.ViTConfig(**size, image_size=32, patch_size=16))
    assert len(swap_activations(vit, "lasilu", source="gelu").swapped) == 2


# --- where activations sit ------------------------------------------------------------------------------------------


def test_one_module_at_several_places():
    act = nn.ReLU()
    model = nn.Sequential(nn.Linear(3, 3), act, nn.Linear(3, 3), act)
    report = swap_activations(model, "affine_lasilu")
    assert [e.path for e in report.swapped] == ["1", "3"]
    assert model[1] is not model[3]  # parameters of their own
    model(torch.randn(2, 3))
    assert len(list(model.parameters())) == 8


def test_one_block_at_several_places():
    block = nn.Sequential(nn.Linear(3, 3), nn.ReLU())
    model = nn.Sequential(block, block)
    with pytest.raises(ValueError, match=r"0\.1 and 1\.1 are one place in a shared module"):
        swap_activations(model, "lasilu", include="0.*")
    assert isinstance(block[1], nn.ReLU)
    report = swap_activations(model, "lasilu")
    assert [e.path for e in report.swapped] == ["0.1", "1.1"]
    assert isinstance(block[1], LASiLU)


def test_prelu_and_inplace_and_mode():
    model = nn.Sequential(nn.Linear(3, 3), nn.PReLU(3), nn.ReLU(inplace=True), nn.Tanh())
    model[1].eval()
    frozen = [parameter.detach().clone() for parameter in model[0].parameters()]
    report = swap_activations(model, "silu", source=["prelu", nn.ReLU])
    assert len(report.swapped) == 2
    assert [type(m) for m in model] == [nn.Linear, nn.SiLU, nn.SiLU, nn.Tanh]
    assert [m.training for m in model] == [True, False, True, True]
    assert [m.inplace for m in model[1:3]] == [False, True]
    assert list(model.state_dict()) == ["0.weight", "0.bias"]
    assert all(torch.equal(a, b) for a, b in zip(frozen, model[0].parameters(), strict=True))


def test_parametric_targets_go_where_their_neighbours_are():
    model = nn.Sequential(nn.Linear(3, 3, dtype=torch.float64, device="meta"), nn.ReLU())
    swap_activations(model, "prelu")
    assert (model[1].weight.device.type, model[1].weight.dtype) == ("meta", torch.float64)


def test_hooks_stay_and_their_handles_work():
    model = nn.Sequential(nn.Linear(3, 3), nn.ReLU())
    seen = []
    handle = model[1].register_forward_hook(lambda module, args, output: seen.append(type(module)))
    swap_activations(model, "lasilu")
    model(torch.randn(2, 3))
    handle.remove()
    model(torch.randn(2, 3))
    assert seen == [LASiLU]


def test_torch_transformer_layers():
    """Their fused path runs the activation they were built with, whatever the attribute says; a copy forgets it."""
    x = torch.randn(2, 5, 8)
    for activation in (F.relu, nn.ReLU(), "gelu"):
        layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, activation=activation, batch_first=True)
        model = nn.TransformerEncoder(layer, 1)
        assert [e.path for e in swap_activations(model, "lasilu").swapped] == ["layers.0.activation"]
        trained = model.train()(x)
        with torch.no_grad():
            padded = model.eval()(x, src_key_padding_mask=torch.zeros(2, 5, dtype=torch.bool))
        torch.testing.assert_close(padded, trained)
        decoder = nn.TransformerDecoderLayer(8, 2, 16, dropout=0.0, activation=activation, batch_first=True)
        swap_activations(decoder, "lasilu")
        assert torch.equal(copy.deepcopy(decoder)(x, x), decoder(x, x))
        assert isinstance(copy.deepcopy(decoder).activation, LASiLU)


# --- arguments, report, errors --------------------------------------------------------------------------------------


def small() -> nn.Module:
    return nn.Sequential(nn.Linear(3, 3), nn.ReLU(), nn.Sequential(nn.GELU(), nn.Sigmoid()))


def test_source_by_name_class_and_alpha():
    model = small()
    assert [e.path for e in swap_activations(model, "lasilu", source="gelu").swapped] == ["2.0"]
    assert [e.path for e in swap_activations(model, "lahardsilu", source=(nn.Sigmoid, "relu")).swapped] == ["1", "2.1"]
    swap_activations(model, "lasilu_imagenet", source=LAHardSiLU)
    # a name of ours means its alpha too; a class does not
    assert [e.path for e in swap_activations(model, "relu", source="lasilu").swapped] == ["2.0"]
    assert [e.path for e in swap_activations(model, "relu", source=LayerAct).swapped] == ["1", "2.1"]


def test_include_exclude():
    assert [e.path for e in swap_activations(small(), "lasilu", include=["2.*", "9*", "1"][::2]).swapped] == [
        "1",
        "2.0",
    ]
    report = swap_activations(small(), "lasilu", exclude="2.?")
    assert next((e.path, e.reason) for e in report.left_alone) == ("2.0", "excluded by '2.?'")
    for argument in ("include", "exclude"):
        with pytest.raises(ValueError, match=f"{argument} pattern 'layer9' matches no activation; there are"):
            swap_activations(small(), "lasilu", **{argument: ["1", "layer9"]})


def test_dry_run_reports_the_same_and_changes_nothing():
    model = nn.Sequential(small(), network(SPELLINGS["F.relu"]))
    before = types_of(model)
    planned = swap_activations(model, "lasilu", dry_run=True)
    assert types_of(model) == before
    assert planned == swap_activations(model, "lasilu")
    assert types_of(model) != before


def test_report_prints_as_a_table():
    report = swap_activations(small(), "lasilu")
    assert isinstance(report, SwapReport)
    lines = str(report).splitlines()
    assert lines[0].split() == ["path", "old", "new"]
    assert lines[1].split() == ["1", "ReLU()", "LASiLU(alpha=1e-05)"]
    assert "left alone: a gate" in lines[3]
    assert lines[-1] == "2 swapped, 1 left alone"
    assert len(report) == len(list(report)) == 3
    with pytest.raises(dataclasses.FrozenInstanceError):
        report.entries = ()


@pytest.mark.parametrize(
    ("kwargs", "error", "message"),
    [
        (dict(to="lasliu"), ValueError, "did you mean 'lasilu'"),
        (dict(to="lasilu", source="geluu"), ValueError, "did you mean 'gelu'"),
        (dict(to="lasilu", source="mish"), ValueError, r"Nothing to swap: the model has 1 x ReLU \(not in source\)"),
        (dict(to="lasilu", include="2.1"), ValueError, r"Nothing to swap: .*1 x Sigmoid \(a gate"),
        (dict(to=lambda: 3), TypeError, "it made int"),
    ],
)
def test_errors_leave_the_model_unchanged(kwargs, error, message):
    model = small()
    before = types_of(model)
    with pytest.raises(error, match=message) as caught:
        swap_activations(model, **kwargs)
    assert "\n" not in str(caught.value)
    assert types_of(model) == before


def test_a_factory_that_fails_half_way_leaves_the_model_unchanged():
    model = nn.Sequential(nn.ReLU(), network(SPELLINGS["F.relu"]), nn.ReLU())
    before, made = types_of(model), []

    def factory():
        if len(made) == 2:
            raise MemoryError
        made.append(nn.SiLU())
        return made[-1]

    with pytest.raises(MemoryError):
        swap_activations(model, factory)
    assert len(made) == 2
    assert types_of(model) == before


def test_no_activations_at_all_and_a_bare_one():
    with pytest.raises(ValueError, match="the model has no activations"):
        swap_activations(nn.Linear(3, 3), "lasilu")
    with pytest.raises(ValueError, match="the model itself"):
        swap_activations(nn.ReLU(), "lasilu")


def test_stock_timm_model_refuses_to_save_and_ours_does_not(tmp_path):
    model = timm.create_model("resnet10t")
    swap_activations(model, "lasilu", dry_run=True)
    save_for_hf(model, tmp_path / "before", safe_serialization=True)
    swap_activations(model, "lasilu")
    with pytest.raises(ValueError, match="'swapped_activations' is not serializable"):
        save_for_hf(model, tmp_path / "after", safe_serialization=True)
    assert not (tmp_path / "after" / "config.json").exists()
    assert "act_layer" in repr(copy.deepcopy(model)._model_args["swapped_activations"])
    ours = timm.create_model("resnet20")
    swap_activations(ours, "lasilu")
    save_for_hf(ours, tmp_path / "ours", safe_serialization=True)
    with pytest.raises(ValueError, match="other activations"):  # the record says LA-SiLU, resnet20 builds ReLU
        timm.create_model(f"local-dir:{tmp_path / 'ours'}", pretrained=True)
