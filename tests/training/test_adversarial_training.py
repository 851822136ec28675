"""Training on attacked images: what the task hands to the engine, and a run from the command line."""

import json
from pathlib import Path

import pytest
import timm
import torch
import torch.nn.functional as F

from tests.cli.test_cli import layeract
from tests.data.test_sources import parquet
from timm_layeract.data.augment import SampleRandom
from timm_layeract.data.sources import ImageSplit
from timm_layeract.training.recipe import Recipe
from timm_layeract.training.tasks.classification import Classification


@pytest.mark.parametrize("attack", ["fgsm", "pgd"])
def test_inputs_are_attacked_within_reach(attack: str) -> None:
    model = timm.create_model("resnet20_lasilu", pretrained=True).train()
    images = torch.randint(0, 256, (12, 3, 32, 32), dtype=torch.uint8)
    labels = torch.randint(0, 10, (12,))
    state = {key: value.clone() for key, value in model.state_dict().items()}
    plain = Recipe(epochs=1, random_erasing=0.5)
    tasks = [Classification(model, recipe) for recipe in (plain, plain.replace(adversarial=attack))]
    clean, attacked = (task.inputs((images, labels), SampleRandom(3, 12))[0] for task in tasks)
    std = torch.tensor(model.pretrained_cfg["std"])[:, None, None]
    distance = (attacked - clean).abs() * std
    assert float(distance.mean()) > 4 / 255
    assert float(distance.max()) <= 8 / 255 + 1e-6
    mean = torch.tensor(model.pretrained_cfg["mean"])[:, None, None]
    unit = attacked * std + mean
    assert float(unit.min()) >= -1e-6
    assert float(unit.max()) <= 1 + 1e-6
    assert model.training
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())
    model.eval()
    with torch.no_grad():
        losses = [float(F.cross_entropy(model(inputs), labels)) for inputs in (clean, attacked)]
    assert losses[1] > losses[0] + 0.5
    # held-out images stay as they are
    assert torch.equal(tasks[1].inputs((images, labels), None)[0], tasks[0].inputs((images, labels), None)[0])


def test_parts_of_a_batch_are_attacked_as_the_whole() -> None:
    model = timm.create_model("resnet20_lasilu", pretrained=True).train()
    images, labels = torch.randint(0, 256, (6, 3, 32, 32), dtype=torch.uint8), torch.arange(6)
    task = Classification(model, Recipe(epochs=1, adversarial="pgd"))
    whole = task.inputs((images, labels), SampleRandom(0, 6))[0]
    part = task.inputs((images[2:5], labels[2:5]), SampleRandom(0, 6, slice(2, 5)))[0]
    # rounding may turn the sign of a gradient that is all but zero
    assert float(((whole[2:5] - part).abs() > 1e-4).float().mean()) < 0.02


def test_the_command(tmp_path: Path, digits: ImageSplit, capsys: pytest.CaptureFixture[str]) -> None:
    parquet(tmp_path, digits, {"train": 60, "test": 10})
    common = ["train", "-m", "resnet20_lasilu", "-d", str(tmp_path), "-r", "cifar10_fast", "--epochs", "1"]
    sizes = ["--batch-size", "16", "--set", "image_size=[8, 8]"]
    code, _, err = layeract(*common, *sizes, "-o", str(tmp_path / "r"), "--adversarial", "pgd", capsys=capsys)
    assert (code, err) == (0, "")
    recipe = json.loads((tmp_path / "r" / "result.json").read_text())["recipe"]
    assert (recipe["adversarial"], recipe["adversarial_epsilon"]) == ("pgd", 8.0)
    code, _, err = layeract(*common, *sizes, "-o", str(tmp_path / "s"), "--adversarial", "pdg", capsys=capsys)
    assert code == 2
    assert "adversarial" in err
    assert not (tmp_path / "s").exists()
