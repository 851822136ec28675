"""Adapting trained networks to another activation: weights, statistics, distillation, reports, refusals."""

import copy
import json
from pathlib import Path

import numpy as np
import pytest
import segmentation_models_pytorch as smp
import timm
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import nn

import timm_layeract
from timm_layeract.adaptation.distillation import Taught
from timm_layeract.adaptation.report import adaptations_table
from timm_layeract.adaptation.target import target_network
from timm_layeract.checkpoints.fingerprint import activation_fingerprint
from timm_layeract.data.augment import SampleRandom
from timm_layeract.data.masks import MaskSplit
from timm_layeract.data.sources import ImageSplit
from timm_layeract.errors import UserError
from timm_layeract.training.engine import Trainer
from timm_layeract.training.recipe import Recipe
from timm_layeract.training.tasks.classification import Classification
from timm_layeract.training.tasks.segmentation import IGNORED, Segmentation

CHANGES = dict(batch_size=32, image_size=[8, 8], padding=1, flip=False, mixed_precision="no", channels_last=False)


@pytest.fixture(scope="module")
def splits(digits: ImageSplit) -> dict[str, ImageSplit]:
    return {"train": digits.take(torch.arange(200)), "test": digits.take(torch.arange(200, 260))}


@pytest.fixture(scope="module")
def trained(splits: dict[str, ImageSplit]) -> nn.Module:
    """A ReLU network that knows the digits a little."""
    torch.manual_seed(0)
    model = timm.create_model("resnet20", num_classes=10)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    images, labels = (splits["train"].images / 255 - 0.5) / 0.25, splits["train"].labels
    for _ in range(25):
        nn.functional.cross_entropy(model.train()(images), labels).backward()
        optimizer.step()
        optimizer.zero_grad()
    return model.eval()


def adapted(model: nn.Module | str, splits: object, output: Path | None = None, **options: object) -> nn.Module:
    options = {**CHANGES, "statistics_batches": 3, "progress": False, "report": lambda _: None, **options}
    return timm_layeract.adapt(model, data=splits, output=output, **options)  # type: ignore[arg-type]


def test_an_adapted_network_is_the_registered_one_and_comes_back_from_its_folder(
    trained: nn.Module, splits: dict[str, ImageSplit], tmp_path: Path
) -> None:
    before = copy.deepcopy(trained.state_dict())
    lines: list[str] = []
    network = adapted(trained, splits, tmp_path / "run", epochs=2, report=lines.append)
    assert all(torch.equal(tensor, before[name]) for name, tensor in trained.state_dict().items())
    assert set(activation_fingerprint(network).values()) == {"LASiLU(alpha=1e-05)"}

    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert (result["model"], result["started_from"]) == ("resnet20_lasilu", "resnet20")
    stages = {stage["stage"]: stage["top1"] for stage in result["adaptation"]["stages"]}
    assert list(stages) == ["original", "swapped", "re-estimated", "epoch 1", "epoch 2"]
    assert result["validation"]["top1"] == max(stages["epoch 1"], stages["epoch 2"])
    noise = result["adaptation"]["noise"]
    assert (noise["images"], noise["split"]) == (60, "test")
    assert noise["without"]["adapted"] == result["test"]["top1"]
    assert noise["without"]["original"] == result["adaptation"]["test_before"]["top1"]
    assert {len(each) for found in noise["corruptions"].values() for each in found.values()} == {5}

    loaded = timm.create_model(f"local-dir:{tmp_path / 'run' / 'model'}", pretrained=True).eval()
    images = torch.randn(3, 3, 8, 8)
    assert torch.equal(loaded(images), network(images))
    assert tuple(loaded.pretrained_cfg["label_names"]) == splits["train"].classes
    report = (tmp_path / "run" / "report.md").read_text()
    assert f"| re-estimated | {stages['re-estimated']:.2f} |" in report
    assert "| impulse_noise |" in report
    assert "Held out, accuracy" in lines[-1]
    with Image.open(tmp_path / "run" / "report.png") as picture:
        assert picture.width > picture.height

    # a finished run resumed gives the same network, and reads nothing again
    again = adapted(trained, splits, tmp_path / "run", epochs=2, resume=True)
    assert torch.equal(again(images), network(images))


def test_statistics_are_the_plain_average_over_batches(trained: nn.Module, splits: dict[str, ImageSplit]) -> None:
    """Epochs 0: the weights stay, and the first BatchNorm's mean is that of all its inputs."""
    plain = dict(padding=0, flip=False, validation_fraction=0.2, seed=3)
    network = adapted(trained, splits, epochs=0, to="silu", batch_size=40, statistics_batches=4, **plain)
    for (name, parameter), old in zip(network.named_parameters(), trained.parameters(), strict=True):
        assert torch.equal(parameter, old), name
    # 4 batches of 40: all 160 images that are not held out
    order = torch.randperm(200, generator=torch.Generator().manual_seed(3))
    images = splits["train"].images[order[40:]].double() / 255
    config = trained.pretrained_cfg
    mean, std = (torch.tensor(config[key]).double()[:, None, None] for key in ("mean", "std"))
    first = copy.deepcopy(trained.conv1).double()((images - mean) / std)
    torch.testing.assert_close(network.bn1.running_mean.double(), first.mean((0, 2, 3)), rtol=1e-5, atol=1e-6)
    assert network.bn1.momentum == trained.bn1.momentum
    assert int(network.bn1.num_batches_tracked) == 4


def test_without_labels_only_the_original_is_learned_from(
    trained: nn.Module, splits: dict[str, ImageSplit], tmp_path: Path
) -> None:
    """Shuffled labels and none at all give the same network; and figures say how often the two networks agree."""
    shuffled = {name: ImageSplit(s.images, s.labels.flip(0), s.classes) for name, s in splits.items()}
    nothing = {name: ImageSplit(s.images, s.labels * 0, ()) for name, s in splits.items()}
    first = adapted(trained, shuffled, epochs=1, unlabelled=True)
    second = adapted(trained, nothing, tmp_path / "run", epochs=1, unlabelled=True)
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))
    with_labels = adapted(trained, shuffled, epochs=1)
    assert not torch.equal(with_labels.conv1.weight, first.conv1.weight)

    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert result["adaptation"]["stages"][0]["top1"] == 100.0  # the original with itself
    config = trained.pretrained_cfg
    mean, std = (torch.tensor(config[key])[:, None, None] for key in ("mean", "std"))
    inputs = (splits["test"].images / 255 - mean) / std
    with torch.no_grad():
        agreement = (trained(inputs).argmax(1) == second(inputs).argmax(1)).double().mean()
    assert result["test"]["top1"] == pytest.approx(100 * agreement.item(), abs=1e-6)
    assert "agreement with the original" in (tmp_path / "run" / "report.md").read_text()


def test_unlabelled_images_need_no_classes(trained: nn.Module, splits: dict[str, ImageSplit], tmp_path: Path) -> None:
    folder = tmp_path / "images"
    folder.mkdir()
    for index in range(40):
        Image.fromarray(splits["train"].images[index].permute(1, 2, 0).numpy()).save(folder / f"{index}.png")
    with pytest.raises(UserError, match="no class folders"):
        adapted(trained, str(folder), epochs=1, batch_size=20)
    network = adapted(trained, str(folder), epochs=1, unlabelled=True, batch_size=20)
    assert set(activation_fingerprint(network).values()) == {"LASiLU(alpha=1e-05)"}


def test_an_adaptation_that_died_ends_with_the_same_bits(
    trained: nn.Module, splits: dict[str, ImageSplit], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = dict(epochs=2, checkpoint_steps=2, batch_size=40)  # 4 steps an epoch
    whole = adapted(trained, splits, tmp_path / "whole", **options)
    step = Trainer._optimizer_step

    def dies(trainer: Trainer) -> None:
        if trainer.step == 3:
            raise KeyboardInterrupt
        step(trainer)

    monkeypatch.setattr(Trainer, "_optimizer_step", dies)
    with pytest.raises(KeyboardInterrupt):
        adapted(trained, splits, tmp_path / "cut", **options)
    monkeypatch.undo()
    cut = adapted(trained, splits, tmp_path / "cut", resume=True, **options)
    assert all(torch.equal(a, b) for a, b in zip(cut.parameters(), whole.parameters(), strict=True))
    results = [(tmp_path / name / "result.json").read_bytes() for name in ("cut", "whole")]
    assert results[0] == results[1]


def test_the_loss_is_half_the_labels_and_half_the_teacher(splits: dict[str, ImageSplit], trained: nn.Module) -> None:
    recipe = Recipe(name="tiny", epochs=1, batch_size=16, image_size=(8, 8), padding=1)
    task = Classification(trained, recipe, splits["train"])
    batch = splits["train"].__getitems__(range(16))
    random = SampleRandom(5, 16, slice(0, 16))
    outputs = torch.randn(16, 10)
    inputs, lesson = Taught(task, trained, recipe, labelled=True).inputs(batch, random)
    with torch.no_grad():
        teacher = trained(inputs).double().numpy()
    own = outputs.double().numpy()

    def softmax(logits: np.ndarray) -> np.ndarray:
        powers = np.exp(logits - logits.max(1, keepdims=True))
        return powers / powers.sum(1, keepdims=True)

    wanted, found = softmax(teacher / 2), softmax(own / 2)
    distance = 4 * (wanted * np.log(wanted / found)).sum(1).mean()
    entropy = -np.log(softmax(own)[np.arange(16), batch[1].numpy()]).mean()
    loss = Taught(task, trained, recipe, labelled=True).loss(outputs, lesson)
    assert loss.item() == pytest.approx((distance + entropy) / 2, rel=1e-5)
    assert Taught(task, trained, recipe, labelled=False).loss(outputs, lesson).item() == pytest.approx(
        distance, rel=1e-5
    )


def masks(count: int) -> MaskSplit:
    """Bright squares on noise, of several sizes."""
    rng = np.random.default_rng(0)
    images, truths = [], []
    for index in range(count):
        image = rng.integers(0, 90, (3, 40 + index % 7, 48), dtype=np.uint8)
        mask = np.zeros(image.shape[1:], np.uint8)
        row, column = rng.integers(0, 20, 2)
        mask[row : row + 16, column : column + 20] = 1
        image[:, mask == 1] += 120
        images.append(torch.from_numpy(image))
        truths.append(torch.from_numpy(mask))
    return MaskSplit(tuple(images), tuple(truths))


def test_a_unet_of_smp_adapts_and_saves_itself(tmp_path: Path) -> None:
    torch.manual_seed(0)
    original = smp.Unet("resnet18", encoder_weights=None, encoder_depth=3, decoder_channels=(16, 8, 8)).eval()
    changes = dict(batch_size=4, image_size=[32, 32], mixed_precision="no", channels_last=False, statistics_batches=2)
    options = dict(epochs=1, progress=False, report=lambda _: None, **changes)
    network = timm_layeract.adapt(original, data={"train": masks(12)}, output=tmp_path / "run", **options)
    assert set(activation_fingerprint(network).values()) >= {"LASiLU(alpha=0.1)"}
    assert not any("ReLU" in each for each in activation_fingerprint(network).values())
    loaded = smp.from_pretrained(tmp_path / "run" / "model").eval()
    images = torch.randn(2, 3, 32, 64)
    assert torch.equal(loaded(images), network(images))
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert (result["monitor"], result["test"], result["adaptation"]["noise"]["split"]) == ("iou", None, "held out")
    assert (tmp_path / "run" / "examples.png").exists()


def test_masks_of_the_teacher_stand_for_truth_where_something_counts() -> None:
    outputs = torch.tensor([[[[1.0, -1.0, 3.0]]]])
    targets = torch.tensor([[[0, 1, IGNORED]]], dtype=torch.uint8)
    assert Segmentation.decide(None, outputs, targets).tolist() == [[[1, 0, IGNORED]]]  # type: ignore[arg-type]


def test_a_network_without_batch_norm_says_so(splits: dict[str, ImageSplit], tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = timm.create_model("mlp20x4", num_classes=10, img_size=(8, 8))
    lines: list[str] = []
    adapted(model, splits, tmp_path / "run", epochs=1, report=lines.append)
    assert "no BatchNorm" in lines[0]
    stages = json.loads((tmp_path / "run" / "result.json").read_text())["adaptation"]["stages"]
    assert stages[1]["top1"] == stages[2]["top1"]
    assert [stage["stage"] for stage in stages] == ["original", "swapped", "re-estimated", "epoch 1"]


def test_a_network_that_no_config_describes_leaves_its_weights(
    trained: nn.Module, splits: dict[str, ImageSplit], tmp_path: Path
) -> None:
    changed = copy.deepcopy(trained)
    changed.layer1[0].act1 = nn.Identity()  # which resnet20_lasilu would bring back as an activation
    lines: list[str] = []
    network = adapted(changed, splits, tmp_path / "run", epochs=1, report=lines.append)
    assert isinstance(network.layer1[0].act1, nn.Identity)
    assert any("load them into the network after swap_activations" in line for line in lines)
    assert not (tmp_path / "run" / "model" / "config.json").exists()
    again = copy.deepcopy(changed)
    timm_layeract.swap_activations(again, "lasilu")
    again.load_state_dict(load_file(tmp_path / "run" / "model" / "model.safetensors"))
    images = torch.randn(2, 3, 8, 8)
    torch.testing.assert_close(again.eval()(images), network(images))


def test_the_target_is_named_by_its_activation() -> None:
    resnet50 = timm.create_model("resnet50", num_classes=3)
    named = target_network(resnet50, "lasilu")
    assert named.pretrained_cfg["architecture"] == "resnet50_lasilu"
    assert set(activation_fingerprint(named).values()) == {"LASiLU(alpha=0.1)"}  # as registered
    built = target_network(timm.create_model("resnetv2_50", num_classes=3), "lasilu")
    assert built.pretrained_cfg["architecture"] == "resnetv2_50"
    assert set(activation_fingerprint(built).values()) == {"LASiLU(alpha=1e-05)"}


def test_refusals_come_before_any_training(trained: nn.Module, splits: dict[str, ImageSplit], tmp_path: Path) -> None:
    output = tmp_path / "run"
    cases = [
        (dict(to="lasiluu"), "Unknown activation 'lasiluu'; did you mean 'lasilu'"),
        (dict(to="relu"), "runs relu already"),
        (dict(to="nrelu"), "parameters of its own"),
        (dict(unlabelled=True, distill=False), "leave distill on"),
        (dict(statistics_batches=-1), "--statistics-batches takes a whole number from 0 to 1000000, got -1"),
        (dict(recipe="adapt_segmentation", padding=0), "for segmentation, the network is one of classification"),
        (dict(tracker="nonesuch"), "Unknown tracker"),
    ]
    for options, message in cases:
        with pytest.raises(UserError, match=message):
            adapted(trained, splits, output, **options)
    fewer = {"train": ImageSplit(splits["train"].images, splits["train"].labels % 3, ("a", "b", "c"))}
    with pytest.raises(UserError, match="The data has 3 classes, the network 10: fine-tune"):
        adapted(trained, fewer, output)
    with pytest.raises(UserError, match="Class 0 is '0' in the data and 'airplane' in the network"):
        adapted("resnet20", splits, output)
    linear = nn.Sequential(nn.Flatten(), nn.Linear(192, 10))
    with pytest.raises(UserError, match="made neither by timm nor by SMP"):
        adapted(linear, splits, output)
    nothing = timm.create_model("resnet20", num_classes=10)
    for name, module in list(nothing.named_modules()):
        if isinstance(module, nn.ReLU):
            nothing.set_submodule(name, nn.Identity())
    with pytest.raises(UserError, match="Nothing to swap"):
        adapted(nothing, splits, output)
    with pytest.raises(UserError, match="Unknown model 'no_such_model': neither a timm model"):
        adapted("no_such_model", splits, output)
    assert not output.exists()


def result(epochs: int, seed: int, test: float, gaussian: float, **recipe: object) -> dict[str, object]:
    noise = {"original": [90.0, 80.0, 70.0, 60.0, 50.0], "adapted": [90.0, 80.0, gaussian, 60.0, 50.0]}
    return {
        "started_from": "net.tag",
        "monitor": "top1",
        "data": {"name": "digits"},
        "recipe": {"epochs": epochs, "seed": seed, **recipe},
        "adaptation": {
            **{"to": "lasilu", "distill": True, "unlabelled": False, "statistics_batches": 2},
            "test_before": {"top1": 80.0},
            "noise": {"corruptions": {"gaussian_noise": noise, "shot_noise": {name: [40.0] * 5 for name in noise}}},
        },
        "test": {"top1": test},
    }


def test_seeds_share_a_row_of_the_table() -> None:
    runs = [
        result(3, 1, 81.0, 72.0),
        result(2, 1, 79.0, 70.0),
        result(3, 2, 83.0, 76.0, later=()),
        result(3, 1, 70.0, 70.0, lr=1.0),
    ]
    lines = adaptations_table(runs).splitlines()
    start = "| `net.tag` | digits | lasilu |"
    assert lines[2:] == [
        f"{start} 3 | yes | 2 | 80.00 → 82.00 ± 1.41 | 70.00 → 74.00 ± 2.83 | 55.00 → 55.40 ± 0.28 |",
        f"{start} 2 | yes | 1 | 80.00 → 79.00 | 70.00 → 70.00 | 55.00 → 55.00 |",
        f"{start} 3 | yes | 1 | 80.00 → 70.00 | 70.00 → 70.00 | 55.00 → 55.00 |",
    ]
