"""segmentation_models_pytorch's registries: encoders and architectures that run LayerAct, and saving without loss."""

import copy
import json
import pickle
import subprocess
import sys

import pytest
import segmentation_models_pytorch as smp
import timm
import torch
import torchvision
from huggingface_hub import HfApi, ModelCard
from safetensors.torch import save_file
from torch import Tensor, nn

import timm_layeract
import timm_layeract.smp  # its names are attributes of the package once SMP is imported
from tests.scripting import scripting
from timm_layeract.checkpoints.fingerprint import ActivationMismatchError, activation_fingerprint
from timm_layeract.checkpoints.save import stored_fingerprint
from timm_layeract.errors import UserError
from timm_layeract.fuse import Fused
from timm_layeract.smp.encoders import FusedConv2dReLU

ENCODERS = [f"resnet{depth}_{act}" for depth in (18, 34, 50, 101) for act in ("lasilu", "lahardsilu")]
ARCHITECTURES = [f"{name}_{act}" for name in ("unet", "unetplusplus") for act in ("lasilu", "lahardsilu", "silu")]
ACTIVATION = {"lasilu": "LASiLU(alpha=0.1)", "lahardsilu": "LAHardSiLU(alpha=0.1)", "silu": "SiLU()"}
STOCK = [name for name in smp.MODEL_ARCHITECTURES_MAPPING if name not in ARCHITECTURES]


def images(size: int = 64, channels: int = 3) -> Tensor:
    return torch.randn(2, channels, size, size, generator=torch.Generator().manual_seed(1))


def create(arch: str, encoder: str = "resnet18", **kwargs: object) -> nn.Module:
    torch.manual_seed(0)
    return smp.create_model(arch, encoder, encoder_weights=None, **kwargs).eval()


def small(arch: str, **kwargs: object) -> nn.Module:
    """Three levels deep, for speed."""
    return create(arch, encoder_depth=3, decoder_channels=(32, 16, 16), **kwargs)


@pytest.mark.parametrize(
    "imports",
    [
        "import segmentation_models_pytorch, timm_layeract",
        # somebody asks whether the package is there, as libraries do, before it is imported
        "import timm_layeract; from importlib.util import find_spec; find_spec('segmentation_models_pytorch')",
    ],
)
def test_importing_both_in_any_order_suffices(imports: str) -> None:
    code = (
        f"{imports}; import segmentation_models_pytorch as smp; "
        "print('resnet50_lasilu' in smp.encoders.encoders, smp.LayerActUnet.__name__, type(smp.__loader__).__name__)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "True LayerActUnet SourceFileLoader"


@pytest.mark.parametrize("name", ENCODERS)
def test_encoder_is_smps_with_another_activation(name: str) -> None:
    stock, _, activation = name.partition("_")
    with torch.device("meta"):
        ours, theirs = (smp.encoders.get_encoder(each, weights=None) for each in (name, stock))
    assert {k: v.shape for k, v in ours.state_dict().items()} == {k: v.shape for k, v in theirs.state_dict().items()}
    assert activation_fingerprint(ours) == dict.fromkeys(activation_fingerprint(theirs), ACTIVATION[activation])
    assert smp.encoders.encoders[name]["pretrained_settings"] == smp.encoders.encoders[stock]["pretrained_settings"]
    assert name in smp.encoders.get_encoder_names()


@pytest.mark.parametrize("depth", [1, 3, 5])
def test_encoder_computes_torchvisions_network(depth: int) -> None:
    """Features against torchvision's ResNet with its ReLUs replaced, by hooks; fused and plain alike."""
    encoder = smp.encoders.get_encoder("resnet50_lasilu", depth=depth, weights=None).eval()
    oracle = torchvision.models.resnet50()
    timm_layeract.swap_activations(oracle, "lasilu_imagenet")
    oracle.load_state_dict(encoder.state_dict(), strict=False)
    features: list[Tensor] = []
    for module in (oracle.layer1, oracle.layer2, oracle.layer3, oracle.layer4):
        module.register_forward_hook(lambda module, inputs, output: features.append(output))
    x = images()
    with torch.no_grad():
        stem = oracle.eval().relu(oracle.bn1(oracle.conv1(x)))
        oracle(x)
        expected = [x, stem, *features][: depth + 1]
        torch.testing.assert_close(encoder(x), expected, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(timm_layeract.unfuse(encoder)(x), expected, rtol=1e-4, atol=1e-4)
    assert encoder.out_channels == [feature.shape[1] for feature in expected]
    assert encoder.output_stride == 2**depth


def test_encoder_blocks_are_fused_in_training_too() -> None:
    encoder = smp.encoders.get_encoder("resnet18_lahardsilu", weights=None).train()
    plain = timm_layeract.unfuse(copy.deepcopy(encoder))
    assert {isinstance(m, Fused) for m in encoder.modules() if "Block" in type(m).__name__} == {True}
    x = images()
    for network in (encoder, plain):
        sum(feature.square().mean() for feature in network(x)[1:]).backward()
    gradients = [{key: p.grad for key, p in network.named_parameters()} for network in (encoder, plain)]
    torch.testing.assert_close(*gradients, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(encoder.state_dict(), plain.state_dict(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("source", ["torchvision", "timm", "smp"])
def test_relu_weights_start_an_encoder(source: str, tmp_path, monkeypatch) -> None:
    network = torchvision.models.resnet18() if source == "torchvision" else timm.create_model("resnet18")
    encoder = smp.encoders.get_encoder("resnet18_lasilu", weights=None)
    if source == "smp":  # by SMP's own way, its download replaced by a folder
        save_file(network.state_dict(), tmp_path / "model.safetensors")
        (tmp_path / "config.json").write_text(json.dumps(dict(mean=[0.5] * 3, std=[0.2] * 3)))
        monkeypatch.setattr(smp.encoders, "hf_hub_download", lambda repo, filename, revision: str(tmp_path / filename))
        encoder = smp.encoders.get_encoder("resnet18_lasilu", weights="imagenet")
        assert smp.encoders.get_preprocessing_params("resnet18_lasilu")["mean"] == [0.5] * 3
    else:
        encoder.load_state_dict(network.state_dict())
    for key, value in encoder.state_dict().items():
        torch.testing.assert_close(value, network.state_dict()[key])


def test_encoder_takes_other_channels_and_strides() -> None:
    encoder = smp.encoders.get_encoder("resnet34_lasilu", in_channels=1, weights=None, output_stride=8).eval()
    with torch.no_grad():
        assert [64 // feature.shape[-1] for feature in encoder(images(channels=1))] == [1, 2, 4, 8, 8, 8]
    with pytest.raises(ValueError, match="depth"):
        smp.encoders.get_encoder("resnet18_lasilu", depth=6, weights=None)


@pytest.mark.parametrize("arch", ARCHITECTURES)
@pytest.mark.parametrize("attention", [None, "scse"])
def test_architecture_name_says_every_activation(arch: str, attention: str | None) -> None:
    base, _, activation = arch.partition("_")
    with torch.device("meta"):
        ours = create(arch, decoder_attention_type=attention)
        theirs = create(base, decoder_attention_type=attention)
    relu = activation_fingerprint(theirs)
    assert activation_fingerprint(ours) == {
        site: ACTIVATION[activation] if old == "ReLU()" else old for site, old in relu.items()
    }
    assert "ReLU()" in relu.values()
    assert ("Sigmoid()" in relu.values()) == (attention == "scse")
    assert ours.state_dict().keys() == theirs.state_dict().keys()


def test_an_encoder_that_names_its_activation_keeps_it() -> None:
    model = small("unet_lasilu", encoder="resnet18_lahardsilu")
    sites = activation_fingerprint(model)
    assert {act for site, act in sites.items() if site.startswith("encoder")} == {"LAHardSiLU(alpha=0.1)"}
    assert {act for site, act in sites.items() if site.startswith("decoder")} == {"LASiLU(alpha=0.1)"}


@pytest.mark.parametrize("arch", STOCK)
def test_any_architecture_takes_activations_and_our_encoder(arch: str) -> None:
    stock = smp.MODEL_ARCHITECTURES_MAPPING[arch]
    if arch == "dpt":
        options = dict(encoder_name="tu-test_vit", dynamic_img_size=True)
    else:
        options = dict(encoder_name="tu-resnet26d_lasilu")
        theirs = stock(encoder_weights=None, **options).eval()
        with torch.no_grad():
            assert theirs(images(128)[:1]).shape == (1, 1, 128, 128)
        assert set(activation_fingerprint(theirs.encoder).values()) == {"LASiLU(alpha=0.1)"}
    model = timm_layeract.smp.create_model(arch, encoder_weights=None, decoder_activation="lahardsilu", **options)
    old = activation_fingerprint(stock(encoder_weights=None, **options))
    for site, activation in activation_fingerprint(model).items():
        if site.startswith("encoder") or old[site] in ("Sigmoid()", "Softmax(dim=1)"):
            assert activation == old[site]
        else:
            assert activation == "LAHardSiLU(alpha=1e-05)"


def test_builder_names_the_architectures() -> None:
    with pytest.raises(UserError, match="did you mean 'linknet'"):
        timm_layeract.smp.create_model("linkne")


@pytest.mark.parametrize(
    ("arch", "options"),
    [
        ("unet_lasilu", {}),
        ("unet_silu", {"decoder_attention_type": "scse", "classes": 3, "in_channels": 1, "activation": "sigmoid"}),
        ("unetplusplus_lahardsilu", {"encoder": "resnet18_lasilu"}),
    ],
)
def test_round_trip(arch: str, options: dict[str, object], tmp_path) -> None:
    model = small(arch, **options)
    with torch.no_grad():
        for tensor in model.state_dict().values():
            if tensor.is_floating_point():
                tensor.add_(torch.randn_like(tensor), alpha=0.01)
    random_before = torch.get_rng_state()
    model.save_pretrained(tmp_path)
    assert torch.equal(torch.get_rng_state(), random_before)
    loaded = smp.from_pretrained(str(tmp_path))
    assert type(loaded) is type(model)
    x = images(channels=model.config["in_channels"])
    with torch.no_grad():
        torch.testing.assert_close(loaded.eval()(x), model(x), rtol=0, atol=0)
    fingerprint = activation_fingerprint(model)
    assert activation_fingerprint(loaded) == fingerprint == stored_fingerprint(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["activations"] == fingerprint
    loaded.save_pretrained(tmp_path / "again")
    assert activation_fingerprint(smp.from_pretrained(str(tmp_path / "again"))) == fingerprint


@pytest.mark.parametrize("arch", ["fpn", "segformer", "dpt", "pan"])
def test_other_architectures_round_trip(arch: str, tmp_path) -> None:
    vit = dict(encoder_name="tu-test_vit", dynamic_img_size=True)
    options = vit if arch == "dpt" else dict(encoder_name="resnet18_lasilu")
    model = timm_layeract.smp.create_model(arch, encoder_weights=None, decoder_activation="lasilu", **options).eval()
    model.save_pretrained(tmp_path)
    loaded = smp.from_pretrained(str(tmp_path)).eval()
    with torch.no_grad():
        torch.testing.assert_close(loaded(images(128)), model(images(128)), rtol=0, atol=0)


def test_loading_downloads_nothing_for_the_encoder(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(smp.encoders, "load_file", lambda *_, **__: timm.create_model("resnet18").state_dict())
    monkeypatch.setattr(smp.encoders, "hf_hub_download", lambda *_, **__: "")
    model = smp.create_model("unet_lasilu", "resnet18")
    assert model.config["encoder_weights"] == "imagenet"
    model.save_pretrained(tmp_path)
    assert model.config["encoder_weights"] == "imagenet"

    def fail(*_: object, **__: object) -> None:
        raise AssertionError("a download")

    monkeypatch.setattr(smp.encoders, "hf_hub_download", fail)
    smp.from_pretrained(str(tmp_path))


def test_another_activation_is_refused(tmp_path) -> None:
    small("unet_lasilu").save_pretrained(tmp_path)
    with pytest.raises(ActivationMismatchError, match=r"17 site|site\(s\)"):
        smp.from_pretrained(str(tmp_path), decoder_activation=None)
    # the weights speak even where the config was tampered with
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "activations": None, "encoder_activation": None}))
    with pytest.raises(ActivationMismatchError, match=r"model\.safetensors.*LASiLU\(alpha=0\.1\) expected, ReLU"):
        smp.from_pretrained(str(tmp_path))


def test_a_model_that_its_arguments_do_not_describe_is_not_saved(tmp_path) -> None:
    model = small("unet_lasilu")
    model.decoder.blocks[0].conv1[2] = nn.ReLU()
    with pytest.raises(UserError, match=r"at 1 site\(s\), first decoder\.blocks\.0\.conv1\.2"):
        model.save_pretrained(tmp_path / "new")
    swapped = small("unet_lasilu")
    timm_layeract.swap_activations(swapped, "mish")
    with pytest.raises(UserError, match="encoder_activation="):
        swapped.save_pretrained(tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_card_has_our_licence_and_import(tmp_path, monkeypatch) -> None:
    model = small("unet_lasilu")
    model.save_pretrained(tmp_path / "default", dataset="nuclei", metrics={"iou": 0.9})
    card = ModelCard.load(tmp_path / "default" / "README.md")
    assert card.data.license == "apache-2.0"
    assert "timm_layeract" in card.data.tags
    assert "import timm_layeract" in card.text
    assert "nuclei" in card.text
    uploaded = {}

    def upload(self: HfApi, repo_id: str, folder_path, **_: object) -> str:
        uploaded.update(
            {path.name: path.read_text() for path in folder_path.iterdir() if path.suffix != ".safetensors"}
        )
        return repo_id

    monkeypatch.setattr(HfApi, "create_repo", lambda self, repo_id, **_: type("Url", (), {"repo_id": repo_id})())
    monkeypatch.setattr(HfApi, "upload_folder", upload)
    model.push_to_hub("me/mine", model_card_kwargs={"license": "cc0-1.0"})
    assert json.loads(uploaded["config.json"])["_model_class"] == "LayerActUnet"
    assert "license: cc0-1.0" in uploaded["README.md"]


@pytest.mark.parametrize("copier", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))])
def test_copies_compute_the_same(copier) -> None:
    model = small("unet_lasilu", decoder_attention_type="scse")
    with torch.no_grad():
        torch.testing.assert_close(copier(model)(images()), model(images()), rtol=0, atol=0)


@pytest.mark.parametrize("encoder", ["resnet18", "tu-resnet18_lasilu"])
def test_script_and_export(encoder: str) -> None:
    model = small("unet_lasilu", encoder=encoder)
    x = images()
    with torch.no_grad():
        expected = model(x)
        exported = torch.export.export(model, (x,)).module()
        torch.testing.assert_close(exported(x), expected, rtol=1e-4, atol=1e-4)
        with scripting():
            scripted = torch.jit.script(model)
        torch.testing.assert_close(scripted(x), expected, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(model(x), expected, rtol=1e-4, atol=1e-4)


def test_decoder_runs_fused_and_folds_for_inference() -> None:
    model = small("unet_lasilu")
    plain = timm_layeract.unfuse(copy.deepcopy(model))
    assert sum(isinstance(module, FusedConv2dReLU) for module in model.decoder.modules()) == 6
    with torch.no_grad():
        torch.testing.assert_close(plain(images()), model(images()), rtol=1e-4, atol=1e-4)
        folded = timm_layeract.fuse(model, inference=True)
        torch.testing.assert_close(folded(images()), model(images()), rtol=1e-4, atol=1e-4)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in folded.modules())
