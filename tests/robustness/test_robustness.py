"""`layeract robustness`: numbers against scikit-learn's, resuming, several models and seeds, and what is refused."""

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file
from sklearn.datasets import load_digits
from sklearn.neighbors import KNeighborsClassifier

from tests.cli.test_cli import layeract
from tests.data.test_sources import parquet
from tests.networks import NearestMean
from tests.robustness.test_released import arrays
from timm_layeract.checkpoints.save import save_pretrained
from timm_layeract.data.sources import ImageSplit
from timm_layeract.data.test_images import load_test_split
from timm_layeract.errors import UserError
from timm_layeract.networks import Network, UnitInput, load_network, load_networks
from timm_layeract.robustness import accuracy
from timm_layeract.robustness import measure as robustness
from timm_layeract.robustness.accuracy import Score, score
from timm_layeract.robustness.cache import ResultCache
from timm_layeract.robustness.corruptions.constants import CATEGORIES
from timm_layeract.robustness.corruptions.generate import RegeneratedSets, corrupt

FIRST, SECOND = "tests.networks:first", "tests.networks:second"


@pytest.fixture
def data(tmp_path: Path, digits: ImageSplit) -> str:
    folder = tmp_path / "digits"
    folder.mkdir()
    parquet(folder, digits, {"train": 10, "test": 60})
    return str(folder)


def test_accuracies_are_those_of_scikit_learn(
    tmp_path: Path, data: str, digits: ImageSplit, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "report"
    code, out, err = layeract(
        "robustness", FIRST, SECOND, "-d", data, "-o", str(output), "--corruptions", "noise,saturate", capsys=capsys
    )
    assert (code, err) == (0, "")
    result = json.loads((output / "robustness.json").read_text())
    assert list(result["sets"]) == [*CATEGORIES["noise"], "saturate"]
    assert result["data"]["corruptions"] == "regenerated"
    assert result["data"]["strengths"] == "CIFAR-10-C"
    scans = load_digits()
    means = [scans.data[600:900][scans.target[600:900] == digit].mean(axis=0) for digit in range(10)]
    model = KNeighborsClassifier(n_neighbors=1).fit(means, range(10))
    run = result["models"][0]["runs"][0]

    def expected(images: torch.Tensor) -> float:
        grey = images.numpy().mean(axis=1).reshape(60, -1) / 255 * 16
        return 100 * float((model.predict(grey) == digits.labels[:60].numpy()).mean())

    assert run["clean"] == pytest.approx(expected(digits.images[:60]))
    for name in result["sets"]:
        sets = [corrupt(digits.images[:60], name, severity) for severity in (1, 2, 3, 4, 5)]
        assert run["accuracy"][name] == pytest.approx([expected(images) for images in sets])
        hashes = [ImageSplit(images, digits.labels[:60], digits.classes).sha256() for images in sets]
        assert result["sets"][name] == hashes
    noise = np.mean([run["accuracy"][name] for name in CATEGORIES["noise"]])
    assert run["categories"]["noise"] == pytest.approx(noise)
    assert run["total"] == pytest.approx(np.mean([*run["accuracy"].values()]))
    rows = list(csv.DictReader((output / "robustness.csv").read_text().splitlines()))
    assert len(rows) == 2 * (1 + 4 * 5)
    assert {row["category"] for row in rows} == {"clean", "noise", "extra"}
    text = (output / "robustness.md").read_text()
    assert "CIFAR-10-C" in text
    assert f"{run['total']:.2f}" in text
    assert f"{run['total']:.2f}" in out
    assert all((output / f"{name}.png").stat().st_size > 5000 for name in ("categories", "severities", "strip"))


def test_a_second_run_goes_on(tmp_path: Path, digits: ImageSplit, monkeypatch: pytest.MonkeyPatch) -> None:
    clean, cache, counted = digits.take(torch.arange(60)), tmp_path / "report" / "cache.jsonl", []

    def count(network: Network, split: ImageSplit, bf16: bool) -> Score:
        counted.append(network.source)
        return score(network, split, bf16)

    def measure(*sources: str, networks: list[Network] | None = None) -> dict[str, Any]:
        counted.clear()
        known, sets = ResultCache(cache), RegeneratedSets(clean)
        names, networks = ["fog", "contrast"], networks or load_networks(sources)
        return robustness.measure(networks, clean, sets, "digits", known, corruptions=names, progress=False)

    monkeypatch.setattr(robustness, "score", count)
    before = measure(FIRST)
    lines = cache.read_text().splitlines(keepends=True)
    assert len(lines) == 1 + 2 * 5 + 2 * 5  # a result a set, and the hash of what is generated
    cache.write_text("".join(lines[:-2]) + lines[-1][:20])  # stopped while it wrote the last line but one
    after = measure(FIRST, SECOND)
    assert counted.count(FIRST) == 1
    assert counted.count(SECOND) == 11
    assert after["models"][0] == before["models"][0]
    measure(networks=[Network.of(NearestMean(2), FIRST)])  # other weights under the same name
    assert counted.count(FIRST) == 11
    monkeypatch.setattr(RegeneratedSets, "load", None)  # nothing is generated either
    assert measure(SECOND, FIRST)["models"] == after["models"][::-1]
    assert counted == []


def test_calibration_error_by_hand(digits: ImageSplit) -> None:
    """Guo et al. (2017), equation 3: the gap between confidence and accuracy in each of 15 bins, by their share."""
    network, split = load_networks([FIRST])[0], digits.take(torch.arange(200))
    logits = network.module(split.images.float() / 255).double()
    confidence, found = (logits.exp() / logits.exp().sum(1, keepdim=True)).max(1)
    right, expected = (found == split.labels).numpy(), 0.0
    bins = np.ceil(confidence.detach().numpy() * 15)
    for number in np.unique(bins):
        inside = bins == number
        expected += abs(right[inside].mean() - confidence.detach().numpy()[inside].mean()) * inside.mean()
    measured = score(network, split)
    assert measured.correct == right.sum()
    assert measured.calibration_error == pytest.approx(100 * expected, abs=1e-3)
    assert measured.calibration_error > 1


def test_means_over_the_common_corruptions() -> None:
    """The fifteen of public leaderboards, without the extra ones; none where one is missing."""
    accuracy = {name: [float(index)] * 5 for index, names in enumerate(CATEGORIES.values()) for name in names}
    found = robustness.means_of(accuracy)
    assert found["common"] == pytest.approx((3 * 0 + 4 * 1 + 4 * 2 + 4 * 3) / 15)
    assert found["total"] == pytest.approx((3 * 0 + 4 * 1 + 4 * 2 + 4 * 3 + 4 * 4) / 19)
    del accuracy["fog"]
    assert robustness.means_of(accuracy)["common"] is None


def test_released_sets_are_preferred(tmp_path: Path, digits: ImageSplit, capsys: pytest.CaptureFixture[str]) -> None:
    parquet(tmp_path, digits, {"test": 6})
    released = tmp_path / "released"
    released.mkdir()
    arrays(released, digits, 6)
    code, out, _ = layeract(
        "robustness", FIRST, "-d", str(tmp_path), "-o", str(tmp_path / "r"), "--released", str(released), capsys=capsys
    )
    assert code == 0
    assert "released corruptions" in out
    result = json.loads((tmp_path / "r" / "robustness.json").read_text())
    assert list(result["sets"]) == ["fog"]
    assert result["data"]["corruptions"] == "released"
    dark = ImageSplit(digits.images[:6] // 5, digits.labels[:6], digits.classes)
    assert result["sets"]["fog"][4] == dark.sha256()
    network = load_networks([FIRST])[0]
    assert result["models"][0]["runs"][0]["accuracy"]["fog"][4] == pytest.approx(100 * score(network, dark).correct / 6)


def result_of(accuracies: dict[str, list[dict[str, list[float]]]], baseline: str | None) -> dict[str, Any]:
    models = []
    for name, runs in accuracies.items():
        models.append({"name": name, "runs": [{"accuracy": accuracy} for accuracy in runs]})
    return {"models": models, "baseline": baseline}


def test_corruption_errors_by_hand() -> None:
    names = [name for category in ("noise", "blur", "weather", "digital") for name in CATEGORIES[category]]
    half = {name: [50.0] * 5 for name in names}
    better = {**half, "fog": [90.0, 80.0, 70.0, 60.0, 50.0]}
    errors = robustness.corruption_errors(result_of({"base": [half], "other": [better, better]}, "base"))
    assert errors is not None
    assert set(errors["base"].values()) == {100.0}
    assert errors["other"]["fog"] == pytest.approx(100 * 30 / 50)
    assert errors["other"]["mCE"] == pytest.approx((14 * 100 + 60) / 15)
    assert robustness.corruption_errors(result_of({"base": [half]}, None)) is None
    # AlexNet itself has 100 by definition
    alexnet = {name: [100 - error] * 5 for name, error in robustness._ALEXNET_ERRORS.items()}
    errors = robustness.corruption_errors(result_of({"a": [alexnet]}, "alexnet"))
    assert errors is not None
    assert errors["a"]["mCE"] == pytest.approx(100)


def test_seeds_are_runs_of_one_model(tmp_path: Path, digits: ImageSplit) -> None:
    for seed in (11, 22):
        torch.manual_seed(seed)
        model = timm.create_model("resnet20_lahardsilu", num_classes=10)
        save_pretrained(model, tmp_path / f"run_{seed}" / "model", digits.classes)
    networks = load_networks([str(tmp_path / "run_{seed}"), "resnet20.cifar10_quick"], [11, 22])
    assert [network.seed for network in networks] == [11, 22, None]
    assert len({network.label for network in networks}) == 2
    assert len({network.sha256 for network in networks}) == 3
    figures = robustness.over_seeds(
        [
            {
                "clean": clean,
                "common": None,
                "total": 50.0,
                "categories": {"noise": 10.0},
                "calibration_error": {"clean": clean / 40, "common": None},
            }
            for clean in (80.0, 90.0)
        ]
    )
    assert figures["mean"]["clean"] == 85.0
    assert figures["std"]["clean"] == pytest.approx(50**0.5)


def test_sources_of_networks(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = timm.create_model("resnet20_lasilu", num_classes=7).eval()
    images = torch.rand(2, 3, 32, 32)
    save_file(model.state_dict(), tmp_path / "bare.safetensors")
    save_pretrained(model, tmp_path / "saved")
    for source in (str(tmp_path / "saved"), f"resnet20_lasilu={tmp_path}/bare.safetensors"):
        assert torch.equal(load_network(source)(images), model(images))
    # the activations of a checkpoint that carries its fingerprint are compared
    with pytest.raises(UserError, match="other activations"):
        load_network(f"resnet20={tmp_path}/saved/model.safetensors")


def test_unit_input_normalises_itself() -> None:
    model = timm.create_model("resnet20_lasilu", pretrained=True).eval()
    images = torch.rand(3, 3, 32, 32)
    mean, std = (torch.tensor(model.pretrained_cfg[key])[:, None, None] for key in ("mean", "std"))
    torch.testing.assert_close(UnitInput(model)(images), model((images - mean) / std))


def test_what_decides_a_network_is_in_its_hash() -> None:
    model = NearestMean()
    same, other = Network.of(NearestMean(), "b"), NearestMean()
    assert Network.of(model, "a").sha256 == same.sha256
    other.act = torch.nn.SiLU()
    assert Network.of(other, "a").sha256 != same.sha256
    assert Network.of(UnitInput(NearestMean(), (0.1,) * 3, (1.0,) * 3), "a").sha256 != same.sha256
    other = NearestMean()
    other.means.data[0, 0, 0] += 1e-3
    assert Network.of(other, "a").sha256 != same.sha256


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["resnet20_lasil"], "neither a timm model nor a folder here; did you mean 'resnet20_lasilu'"),
        (["hf-hub:nobody/nothing"], "hf-hub:nobody/nothing cannot be loaded"),
        (["local-dir:nowhere"], "local-dir:nowhere cannot be loaded"),
        (["tests"], "tests holds no model"),
        (["resnet20_mish"], "resnet20_mish has no pretrained weights"),
        (["resnet20=nowhere.pth"], "no checkpoint file nowhere.pth"),
        (["tests.networks:nobody"], "cannot be called"),
        (["nowhere.at.all:nobody"], "cannot be called"),
        (["tests.networks:nothing"], "returned str, not a torch.nn.Module"),
        (["tests.networks:three_classes"], "gives (3,) outputs; the data has 10 classes"),
        ([FIRST, FIRST], "tests.networks:first is given twice"),
        (["runs/{seed}"], "holds {seed}; give --seeds"),
        ([FIRST, "--seeds", "1,2"], "no model holds {seed}"),
        (["runs/{seed}", "--seeds", "1,b"], "whole numbers with commas"),
        ([FIRST, "resnet20.cifar10_quick"], "different image sizes"),
        ([FIRST, "--corruptions", "fogg"], "did you mean 'fog'"),
        ([FIRST, "--baseline", "alexnet"], "belong to ImageNet-C"),
        ([FIRST, "--baseline", "resnet50"], "not one of the models"),
        ([FIRST, "--baseline", FIRST, "--corruptions", "noise"], "defocus_blur is left out"),
        ([FIRST, "--released", "nowhere"], "no folder nowhere"),
        ([FIRST, "--released", "tests", "--limit", "5"], "no longer match"),
        ([FIRST, "--released", "tests"], "holds no corruptions"),
    ],
)
def test_mistakes_are_one_line(
    tmp_path: Path, data: str, arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    code, _, err = layeract("robustness", *arguments, "-d", data, "-o", str(tmp_path / "report"), capsys=capsys)
    assert code == 2
    assert words in err
    assert err.count("\n") == 1
    assert not (tmp_path / "report").exists()


def test_golden_numbers_of_an_embedded_model(cifar10: Path) -> None:
    """On the first 200 test images: what a network and each step of a corruption may not change unseen."""
    clean = load_test_split(str(cifar10), (32, 32), progress=False).take(torch.arange(200))
    network = load_networks(["resnet20_lasilu.cifar10_quick"])[0]
    sets = RegeneratedSets(clean)
    found = {"clean": score(network, clean).correct}
    for name in ("gaussian_noise", "glass_blur", "frost", "elastic_transform", "spatter"):
        found[name] = score(network, sets.load(name, 3)).correct
    assert found == {
        "clean": 165,
        "gaussian_noise": 129,
        "glass_blur": 123,
        "frost": 142,
        "elastic_transform": 145,
        "spatter": 129,
    }


def test_batches_do_not_matter(digits: ImageSplit, monkeypatch: pytest.MonkeyPatch) -> None:
    network = Network.of(NearestMean(), "a")
    whole = accuracy.class_probabilities(network, digits.images, 10)
    monkeypatch.setattr(accuracy, "BATCH", 7)
    assert torch.equal(accuracy.class_probabilities(network, digits.images, 10), whole)
