"""Training runs on small real images: what they leave behind, resuming, and every refusal."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from PIL import Image
from torch import Tensor, nn
from torchvision.transforms.functional import pil_to_tensor

from timm_layeract.data.augment import normalize
from timm_layeract.data.sources import ImageSplit
from timm_layeract.data.splits import holdout
from timm_layeract.errors import UserError
from timm_layeract.training import run
from timm_layeract.training.engine import Trainer
from timm_layeract.training.options import Execution
from timm_layeract.training.recipe import Recipe
from timm_layeract.training.start import Start
from timm_layeract.training.tasks.classification import Classification

RECIPE = Recipe(
    name="tiny", epochs=3, batch_size=32, lr=0.05, padding=1, flip=False, image_size=(8, 8), schedule="cosine"
)


def network(name: str = "resnet20_lasilu", classes: int = 10) -> torch.nn.Module:
    torch.manual_seed(0)
    return timm.create_model(name, num_classes=classes)


def split(digits: ImageSplit) -> tuple[ImageSplit, ImageSplit]:
    return digits.take(torch.arange(200)), digits.take(torch.arange(200, 300))


def start(digits: ImageSplit, output: Path, recipe: Recipe = RECIPE, **options: Any) -> dict[str, object]:
    train, test = split(digits)
    return run.train_on(
        options.pop("model", None) or network(),
        recipe,
        train,
        test,
        output,
        data_name="digits",
        execution=Execution(progress=False, **options),
    )


def engine(model: torch.nn.Module, recipe: Recipe, train: ImageSplit, val: ImageSplit, output: Path) -> Trainer:
    return Trainer(model, recipe, Classification(model, recipe, train), train, val, output, progress=False)


def test_a_run_leaves_log_result_and_a_model_that_loads(tmp_path: Path, digits: ImageSplit) -> None:
    lines: list[str] = []
    result = start(digits, tmp_path / "run", report=lines.append)
    assert json.loads((tmp_path / "run" / "result.json").read_text()) == result
    log = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert [record["epoch"] for record in log] == [0, 1, 2]
    assert len(lines) == 4
    best = max(log, key=lambda record: record["val"]["top1"])
    assert (result["best_epoch"], result["validation"]["top1"]) == (best["epoch"] + 1, best["val"]["top1"])
    assert log[-1]["train"]["loss"] < log[0]["train"]["loss"]

    loaded = timm.create_model(f"local-dir:{tmp_path / 'run' / 'model'}", pretrained=True).eval()
    test = split(digits)[1]
    inputs = normalize(test.images, loaded.pretrained_cfg["mean"], loaded.pretrained_cfg["std"])
    with torch.inference_mode():
        top1 = 100 * (loaded(inputs).argmax(1) == test.labels).double().mean()
    assert float(top1) == pytest.approx(result["test"]["top1"])
    assert loaded.pretrained_cfg["label_names"] == list(digits.classes)

    environment = json.loads((tmp_path / "run" / "environment.json").read_text())
    assert environment["train_seconds"] >= 0
    assert environment["versions"]["timm"] == timm.__version__
    with Image.open(tmp_path / "run" / "curve.png") as picture:
        assert picture.width > 2 * picture.height


def test_a_run_counted_in_steps_ends_within_an_epoch(tmp_path: Path, digits: ImageSplit) -> None:
    recipe = Recipe(name="short", steps=8, batch_size=32, padding=1, flip=False, image_size=(8, 8), schedule="cosine")
    start(digits, tmp_path / "run", recipe)  # 180 images make 5 steps an epoch
    log = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert len(log) == 2
    assert log[-1]["lr"] == pytest.approx(0.1 * 0.5 * (1 - math.cos(math.pi * 0)), abs=1e-3)


def test_ten_crops_are_averaged() -> None:
    model, recipe = network().eval(), RECIPE.replace(ten_crop=(10, 10))
    inputs = torch.randn(5, 3, 10, 10)
    crops = [inputs[..., top : top + 8, left : left + 8] for top, left in ((0, 0), (0, 2), (2, 0), (2, 2), (1, 1))]
    views = [*crops, *(crop.flip(-1) for crop in crops)]
    with torch.no_grad():
        expected = torch.stack([model(view).softmax(1) for view in views]).mean(0).log()
        actual = Classification(model, recipe).predict(model, inputs)
        torch.testing.assert_close(actual, expected)
        assert torch.equal(
            Classification(model, recipe).predict(model, inputs[..., :8, :8]), model(inputs[..., :8, :8])
        )


def test_a_finished_run_is_not_tested_again(
    tmp_path: Path, digits: ImageSplit, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = start(digits, tmp_path, RECIPE.replace(epochs=1), resume=True)

    def fail(*_: object) -> None:
        raise AssertionError("the test split was read a second time")

    monkeypatch.setattr(Trainer, "evaluate", fail)
    assert start(digits, tmp_path, RECIPE.replace(epochs=1), resume=True) == first


def test_best_epoch_is_chosen_on_held_out_images(tmp_path: Path, digits: ImageSplit) -> None:
    training, validation = holdout(split(digits)[0], 0.1, RECIPE.seed)
    trainer = engine(network(), RECIPE.replace(lr=0.3, epochs=4), training, validation, tmp_path)
    weights = {}
    for record in trainer.fit():
        weights[record.epoch] = {key: value.clone() for key, value in trainer.unwrapped.state_dict().items()}
    trainer.load_best()
    best = weights[trainer.best.epoch]
    assert all(torch.equal(best[key], value) for key, value in trainer.unwrapped.state_dict().items())
    assert trainer.evaluate(validation)["top1"] == pytest.approx(trainer.best.val["top1"])
    assert trainer.best.val["top1"] == max(record.val["top1"] for record in trainer.history)


def test_random_erasing_blanks_rectangles_of_training_images_only(tmp_path: Path, digits: ImageSplit) -> None:
    seen: list[tuple[bool, float]] = []
    model = network()
    model.register_forward_pre_hook(lambda m, x: seen.append((m.training, float((x[0] == 0).float().mean()))))
    train, validation = holdout(split(digits)[0], 0.1, 0)
    list(engine(model, RECIPE.replace(random_erasing=0.9), train, validation, tmp_path).fit())
    # standardised images are never exactly 0 but where they were erased
    assert all((blank > 0.05) == training for training, blank in seen)


def test_training_images_grow(tmp_path: Path, digits: ImageSplit) -> None:
    sizes: dict[bool, list[int]] = {True: [], False: []}
    model = network()

    def note(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        if module is model:  # not the copy in which dead units are looked for
            sizes[module.training].append(inputs[0].shape[-1])

    model.register_forward_pre_hook(note)
    recipe = RECIPE.replace(epochs=4, batch_size=90, progressive_sizes=[[0.3, 4], [0.75, 6]])
    start(digits, tmp_path / "run", recipe, model=model)
    assert sizes[True] == [4] * 4 + [6] * 2 + [8] * 2
    assert {*sizes[False]} == {8}


def test_smaller_images_are_the_same_images(tmp_path: Path, digits: ImageSplit) -> None:
    seen: list[torch.Tensor] = []
    model, (train, val) = network(), split(digits)
    model.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    recipe = RECIPE.replace(epochs=1, batch_size=200, padding=0, progressive_sizes=[[0.5, 4]])
    trainer = engine(model, recipe, train, val, tmp_path)
    next(trainer.steps(0, 0, 1))
    order = trainer.batches.parts(0, 0, 1)
    rows = next(iter(order)).indices
    pictures = [Image.fromarray(train.images[row].permute(1, 2, 0).numpy()) for row in rows]
    small = torch.stack([pil_to_tensor(each.resize((4, 4), Image.Resampling.BILINEAR)) for each in pictures])
    expected = normalize(small, trainer.task.mean, trainer.task.std)  # type: ignore[attr-defined]
    torch.testing.assert_close(seen[0], expected, atol=2.5 / 255 / 0.2, rtol=0)


def test_refusals_leave_nothing_behind(tmp_path: Path, digits: ImageSplit) -> None:
    fresh = tmp_path / "fresh"
    with pytest.raises(UserError, match="did you mean 'resnet20_lasilu'"):
        run.train("resnet20_lasillu", RECIPE, str(tmp_path), fresh)
    with pytest.raises(UserError, match="no pretrained weights"):
        Start("resnet110_mish", pretrained=True).check(RECIPE)
    with pytest.raises(UserError, match="labels up to 9"):
        start(digits, fresh, model=network(classes=5))
    with pytest.raises(UserError, match="do not fill one batch"):
        start(digits, fresh, RECIPE.replace(batch_size=500))
    with pytest.raises(UserError, match="needs a GPU"):
        start(digits, fresh, RECIPE.replace(mixed_precision="fp16"))
    with pytest.raises(UserError, match="trains for 0 epochs"):
        start(digits, fresh, RECIPE.replace(epochs=0))
    assert not fresh.exists()

    used = tmp_path / "used"
    used.mkdir()
    (used / "thesis.txt").write_text("mine")
    with pytest.raises(UserError, match="not empty"):
        start(digits, used)
    assert [path.name for path in used.iterdir()] == ["thesis.txt"]
    with pytest.raises(UserError, match="is a file"):
        start(digits, used / "thesis.txt")


def test_another_run_is_not_resumed(tmp_path: Path, digits: ImageSplit) -> None:
    start(digits, tmp_path, RECIPE.replace(epochs=1), resume=True)
    with pytest.raises(UserError, match=r"another run \(recipe.lr: 0.05 there, 0.1 here\)"):
        start(digits, tmp_path, RECIPE.replace(epochs=1, lr=0.1), resume=True)
    with pytest.raises(UserError, match="resnet20_silu here"):
        start(digits, tmp_path, RECIPE.replace(epochs=1), resume=True, model=network("resnet20_silu"))


def test_a_loss_that_is_not_finite_stops_the_run(tmp_path: Path, digits: ImageSplit) -> None:
    with pytest.raises(UserError, match=r"loss is not finite in epoch 1, step \d+ .*smaller --lr"):
        start(digits, tmp_path / "run", RECIPE.replace(lr=1e30, schedule="multistep"))
    assert not (tmp_path / "run" / "result.json").exists()
