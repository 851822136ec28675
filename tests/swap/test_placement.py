"""``swap_activations(placement="normalized")``: the places, the BatchNorms and the parameter counts of the paper.

A fresh normalized activation in evaluation mode is its base, and a fresh BatchNorm has gain 1 and bias 0, so a swapped
fresh network must still compute what it did: the oracle for every rewritten forward.
"""

import copy
import pickle
from collections.abc import Callable

import pytest
import timm
import torch
import torchvision
from torch import Tensor, nn

from timm_layeract import NormalizedAct, save_pretrained, swap_activations
from timm_layeract.checkpoints.fingerprint import activation_fingerprint
from timm_layeract.errors import UserError
from timm_layeract.swap.placement import BufferedLinear


def parameters(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def images(size: int = 32) -> Tensor:
    return torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(0))


def output(model: nn.Module) -> Tensor:
    with torch.no_grad():
        return model.eval()(images())


def cifar100_resnet50() -> nn.Module:
    """The paper's: a 3x3 first convolution and 100 classes."""
    model = timm.create_model("resnet50", num_classes=100)
    model.conv1 = nn.Conv2d(3, 64, 3, 1, 1, bias=False)
    return model


@pytest.mark.parametrize("name", ["nrelu", "nswish", "nlrelu_uncentered"])
@pytest.mark.parametrize("buffer_norm", [False, True])
def test_parameters_are_the_papers(name: str, buffer_norm: bool) -> None:
    model = cifar100_resnet50()
    assert parameters(model) == 23_705_252
    report = swap_activations(model, name, placement="normalized", buffer_norm=buffer_norm)
    assert parameters(model) == 23_690_053
    assert len(report.swapped) == len(report.without_affine) == 1 + 2 * 16
    assert {entry.reason for entry in report.left_alone} == {"follows a residual addition"}
    assert report.buffered == ("fc" if buffer_norm else None)


@pytest.mark.parametrize("base", ["resnet18", "resnet26d", "seresnet50"])
def test_timm_networks(base: str) -> None:
    model = timm.create_model(base, num_classes=5)
    last = "act2" if base == "resnet18" else "act3"
    expected = {path for path in activation_fingerprint(model) if not path.endswith(last) and ".se." not in path}
    before, counted = output(model), parameters(model)
    report = swap_activations(model, "nrelu", placement="normalized")
    assert {entry.path for entry in report.swapped} == expected
    torch.testing.assert_close(output(model), before)
    lost = [model.get_submodule(path) for path in report.without_affine]
    assert all(norm.weight is None and norm.bias is None and not norm.affine for norm in lost)
    assert counted - parameters(model) == 2 * sum(norm.num_features for norm in lost) - len(expected)
    assert len(lost) == len(expected)
    assert all(norm.affine for path, norm in model.named_modules() if path.endswith("bn3") and norm)


@pytest.mark.parametrize("build", [torchvision.models.resnet18, torchvision.models.resnet50], ids=lambda f: f.__name__)
def test_a_module_called_thrice_becomes_one_for_each_call(build: Callable[[], nn.Module]) -> None:
    model = build()
    before, calls = output(model), 3 if build is torchvision.models.resnet50 else 2
    report = swap_activations(model, "nswish", placement="normalized", buffer_norm=True)
    block = model.layer2[0]
    names = [f"relu_{i}" for i in range(1, calls)]
    assert [name for name, child in block.named_children() if isinstance(child, NormalizedAct)] == names
    assert isinstance(block.relu, nn.ReLU)  # behind the addition
    assert sum(entry.path.startswith("layer2.0.") for entry in report) == calls
    assert len(report.without_affine) == len(report.swapped)
    assert not torch.allclose(output(model), before)  # another function
    twin = pickle.loads(pickle.dumps(model))
    torch.testing.assert_close(output(twin), output(model))
    model.train()(images()).sum().backward()
    sites = [module for module in model.modules() if isinstance(module, NormalizedAct)]
    assert all(site.num_batches_tracked == 1 and site.alpha.grad is not None for site in sites)


def test_a_module_called_thrice_computes_the_same() -> None:
    model = torchvision.models.resnet50()
    nn.init.zeros_(model.fc.bias)
    before = output(model)
    report = swap_activations(model, "nrelu")
    assert len(report.swapped) == 1 + 3 * 16
    assert not hasattr(model.layer1[0], "relu")  # nothing calls it any more
    torch.testing.assert_close(output(model), before)
    assert set(activation_fingerprint(model).values()) == {report.swapped[0].new}


class Block(nn.Module):
    """A residual block with the addition to be found."""

    def __init__(self, add: Callable[[Tensor, Tensor], Tensor], between: nn.Module) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 1)
        self.norm = nn.BatchNorm2d(3)
        self.inner = nn.ReLU()
        self.add = add
        self.between = between
        self.outer = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        y = self.inner(self.between(self.norm(self.conv(x))))
        return self.outer(self.between(self.add(y, x)))


def accumulate(a: Tensor, b: Tensor) -> Tensor:
    a += b
    return a


ADDITIONS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "+": lambda a, b: a + b,
    "+=": accumulate,
    "torch.add": torch.add,
    "add_": lambda a, b: a.add_(b),
}


@pytest.mark.parametrize("add", ADDITIONS)
@pytest.mark.parametrize("between", [nn.Identity(), nn.Dropout(0.0), nn.Sequential(nn.Identity(), nn.Dropout(0.0))])
def test_additions_are_found_through_dropout(add: str, between: nn.Module) -> None:
    model = nn.Sequential(Block(ADDITIONS[add], between), nn.Flatten(), nn.Linear(3 * 32 * 32, 2))
    report = swap_activations(model, "nrelu", placement="normalized")
    assert [entry.path for entry in report.swapped] == ["0.inner"]
    assert report.without_affine == ("0.norm",)


class Sum(nn.Module):
    """Ends in an addition; the activation follows outside."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3), nn.ReLU())

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x) + x


class Scaled(nn.Module):
    """Adds a constant, which is no residual; reads its BatchNorm twice; calls the activation as a function."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(3)
        self.act = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(x)
        return self.act(y) + torch.relu(y + 1) + nn.functional.relu(self.norm(x) + x)


def test_what_another_module_hands_on() -> None:
    model = nn.Sequential(Sum(), nn.ReLU(), nn.BatchNorm2d(3), nn.Sequential(nn.ReLU(), nn.Conv2d(3, 3, 1)), Scaled())
    before = output(model)
    report = swap_activations(model, "nrelu", placement="normalized")
    assert {entry.path for entry in report.left_alone} == {"1", "4.functional_relu_1"}
    assert report.without_affine == ("0.body.1", "2")
    assert model[4].norm.affine  # not the only reader
    torch.testing.assert_close(output(model), before)


def test_activations_inside_timms_norm_layers() -> None:
    model = timm.create_model("mobilenetv3_small_050", num_classes=3)
    report = swap_activations(
        model, activation_base("hard_swish"), placement="normalized", source=["hard_swish", "relu"]
    )
    assert "bn1" in report.without_affine
    assert model.bn1.weight is None
    assert output(model).isfinite().all()


def activation_base(name: str) -> Callable[[], NormalizedAct]:
    return lambda: NormalizedAct(timm.layers.create_act.get_act_layer(name))


class Branches(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.act = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        return self.act(x) if x.sum() > 0 else x


def test_what_cannot_be_traced_is_left_alone_and_named() -> None:
    model = nn.Sequential(nn.Conv2d(3, 3, 1), nn.ReLU(), Branches())
    report = swap_activations(model, "nrelu", placement="normalized")
    assert [entry.path for entry in report.swapped] == ["1"]
    assert "could not be traced" in str(report.left_alone[0].reason)


def test_buffer_norm_normalises_what_the_head_reads() -> None:
    model = timm.create_model("resnet18", num_classes=3)
    keys = set(model.state_dict())
    report = swap_activations(model, "nrelu", placement="normalized", buffer_norm=True)
    assert isinstance(model.fc, BufferedLinear)
    assert "BatchNorm put before fc" in str(report)
    kept = {key for key in keys if not any(key.startswith(f"{norm}.") for norm in report.without_affine)}
    assert kept < set(model.state_dict())
    seen = []
    model.fc.norm.register_forward_hook(lambda module, args, y: seen.append(y))
    model.train()(torch.randn(16, 3, 32, 32))
    torch.testing.assert_close(seen[0].mean(0), torch.zeros(512), atol=1e-5, rtol=0)
    x = torch.randn(5, 512)
    model.eval()
    torch.testing.assert_close(model.fc(x), nn.functional.linear(model.fc.norm(x), model.fc.weight, model.fc.bias))
    torch.testing.assert_close(copy.deepcopy(model)(images()), model(images()))


@pytest.mark.parametrize(
    ("to", "kwargs", "words"),
    [
        ("lasilu", dict(placement="normalized"), "is for normalized activations"),
        ("nrelu", dict(placement="normal"), "placement must be 'all' or 'normalized', got 'normal'"),
        ("nrelu", dict(buffer_norm=True), "buffer_norm belongs to placement='normalized'"),
    ],
)
def test_mistakes(to: str, kwargs: dict[str, object], words: str) -> None:
    model = timm.create_model("resnet18")
    before = activation_fingerprint(model)
    with pytest.raises(UserError, match=words):
        swap_activations(model, to, **kwargs)
    headless = timm.create_model("resnet18", num_classes=0)
    with pytest.raises(UserError, match="buffer_norm needs a head"):
        swap_activations(headless, "nrelu", placement="normalized", buffer_norm=True)
    assert activation_fingerprint(model) == activation_fingerprint(headless) == before


def test_dry_run_changes_nothing() -> None:
    model = torchvision.models.resnet18()
    before, keys = activation_fingerprint(model), list(model.state_dict())
    report = swap_activations(model, "nrelu", placement="normalized", buffer_norm=True, dry_run=True)
    assert len(report.swapped) == len(report.without_affine) == 9
    assert activation_fingerprint(model) == before
    assert list(model.state_dict()) == keys


def test_a_swapped_stock_network_is_saved_as_the_registered_one(tmp_path) -> None:
    model = timm.create_model("resnet18", num_classes=3)
    swap_activations(model, "nrelu", placement="normalized")
    model.train()(images())
    assert save_pretrained(model, tmp_path) == "resnet18_nrelu"
    loaded = timm.create_model(f"local-dir:{tmp_path}", pretrained=True)
    torch.testing.assert_close(output(loaded), output(model), rtol=0, atol=0)
