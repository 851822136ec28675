"""Training on photographs of any shape: timm's own transforms, called directly, are the oracle; discs stay round."""

import json
import pickle
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from PIL import Image, ImageDraw
from sklearn.datasets import load_sample_images
from timm.data import Mixup, create_transform
from timm.data.distributed_sampler import RepeatAugSampler
from timm.loss import BinaryCrossEntropy, SoftTargetCrossEntropy
from timm.optim import Lamb
from torch import Tensor
from torchvision.transforms.functional import pil_to_tensor

from timm_layeract.data.augment import SampleRandom, normalize
from timm_layeract.data.sources import ImageSplit, StoredSplit, load_splits
from timm_layeract.data.splits import Drawn, holdout
from timm_layeract.data.views import View, seeded
from timm_layeract.errors import UserError
from timm_layeract.evaluation.evaluate import evaluate
from timm_layeract.training import run
from timm_layeract.training.batches import Batches, stream
from timm_layeract.training.engine import Trainer
from timm_layeract.training.optim import create_optimizer
from timm_layeract.training.options import Execution
from timm_layeract.training.preprocessing import evaluation_settings, training_view
from timm_layeract.training.preprocessing import test_view as view_of_tests
from timm_layeract.training.recipe import Recipe, load_recipe
from timm_layeract.training.start import Start
from timm_layeract.training.tasks.classification import Classification

CLASSES = ("ant", "bee", "cat")
RECIPE = Recipe(
    name="crops", epochs=2, batch_size=16, lr=0.05, schedule="cosine", train_crop_mode="rrc", image_size=(24, 24),
    test_size=(32, 32), crop_pct=0.8, interpolation="bicubic", color_jitter=0.2, mixup=0.2, cutmix=1.0,
)  # fmt: skip
CONFIG: dict[str, Any] = {
    "input_size": (3, 32, 32), "crop_pct": 0.875, "interpolation": "bicubic", "mean": (0.5, 0.4, 0.3), "std": (0.2,) * 3
}  # fmt: skip


@pytest.fixture(scope="module")
def photographs() -> list[Image.Image]:
    """Windows of scikit-learn's two photographs, wide, tall, square."""
    sources = [Image.fromarray(image) for image in load_sample_images().images]
    boxes = [(10, 20, 210, 120), (300, 50, 360, 250), (100, 100, 228, 228), (0, 0, 640, 427)]
    return [source.crop(box) for source in sources for box in boxes]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, photographs: Sequence[Image.Image]) -> Path:
    """Small photographs of three classes, 48 to train on, 12 to test."""
    place = tmp_path_factory.mktemp("photographs")
    for number in range(60):
        path = place / ("test" if number % 5 == 0 else "train") / CLASSES[number % 3] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        size = (40 + number, 30 + 3 * (number % 13))
        photographs[number % len(photographs)].rotate(number, expand=False).resize(size).save(path)
    return place


def drawn_disc(width: int, height: int, diameter: int) -> Image.Image:
    picture = Image.new("RGB", (width, height))
    left, top = (width - diameter) / 2, (height - diameter) / 2
    ImageDraw.Draw(picture).ellipse((left, top, left + diameter - 1, top + diameter - 1), fill="white")
    return picture


def extents(image: Tensor) -> tuple[float, float]:
    """Height and width of a white disc on black, by its brightest column and row, parts of pixels included."""
    white = image[0].float() / 255
    return float(white.sum(0).max()), float(white.sum(1).max())


@pytest.mark.parametrize("size", [(400, 200), (200, 400), (301, 180)])
def test_a_disc_arrives_round(size: tuple[int, int]) -> None:
    picture, short = drawn_disc(*size, diameter=120), min(size)
    squares = [(Recipe(epochs=1, image_size=(96, 96)), 96), (RECIPE.replace(test_size=None, image_size=(96, 96)), 120)]
    for recipe, shorter in squares:  # crop_pct 1 and 0.8
        height, width = extents(training_view(recipe, CONFIG)(picture, 0))
        assert height == pytest.approx(120 / short * shorter, abs=0.6)
        assert height == pytest.approx(width, abs=0.6)
    height, width = extents(View.whole((60, 90))(picture, 0))
    assert height == pytest.approx(width, abs=0.6)


def test_a_disc_stays_round_in_crops_that_do_not_stretch() -> None:
    recipe = RECIPE.replace(scale=(0.35, 0.5), ratio=(1.0, 1.0), color_jitter=0.0, image_size=(96, 96))
    view = training_view(recipe, CONFIG)
    picture = drawn_disc(400, 200, diameter=120)
    crops = [view(picture, Drawn(0, seed))[0] for seed in range(60)]
    whole = [crop for crop in crops if not (crop[[0, -1]].any() or crop[:, [0, -1]].any())]  # nothing of it cut off
    heights, widths = zip(*(extents(crop[None]) for crop in whole), strict=True)
    assert len({*heights}) > 5
    assert heights == pytest.approx(widths, abs=1.2)


def test_what_is_in_memory_is_round_and_of_its_own_size_if_that_fits(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / "train" / name).mkdir(parents=True)
        drawn_disc(200, 100, 60).save(tmp_path / "train" / name / "disc.png")
        noise = np.random.default_rng(0).integers(0, 256, (50, 50, 3), np.uint8)
        Image.fromarray(noise).save(tmp_path / "train" / name / "noise.png")
    split = load_splits(str(tmp_path), (50, 50), progress=False)["train"]
    assert isinstance(split, ImageSplit)
    assert extents(split.images[0]) == pytest.approx((30, 30), abs=0.6)
    assert torch.equal(split.images[1], torch.from_numpy(noise).permute(2, 0, 1))


@pytest.mark.parametrize("mode", ["rrc", "rkrc", "rkrr"])
@pytest.mark.parametrize("policy", [None, "rand-m7-mstd0.5-inc1", "augmix-m3-w3", "original"])
def test_training_images_are_timms(photographs: list[Image.Image], mode: str, policy: str | None) -> None:
    recipe = RECIPE.replace(
        train_crop_mode=mode, auto_augment=policy, scale=(0.2, 0.9), ratio=(0.5, 2.0), train_interpolation="bilinear"
    )
    timms = create_transform(
        24, is_training=True, train_crop_mode=mode, scale=(0.2, 0.9), ratio=(0.5, 2.0), color_jitter=0.2,
        auto_augment=policy, interpolation="bilinear", mean=CONFIG["mean"], std=CONFIG["std"],
    )  # fmt: skip
    view = training_view(recipe, CONFIG)
    for number, picture in enumerate(photographs):
        random.seed(number)
        np.random.seed(number)
        torch.manual_seed(number)
        before = random.getstate(), torch.get_rng_state(), np.random.get_state()[1].tolist()  # type: ignore[index]
        expected = timms(picture)
        random.seed(number)
        np.random.seed(number)
        torch.manual_seed(number)
        seen = view(picture, Drawn(0, number))
        torch.testing.assert_close(normalize(seen[None], CONFIG["mean"], CONFIG["std"])[0], expected)
        assert random.getstate() == before[0]  # nobody else's numbers are touched
        assert torch.equal(torch.get_rng_state(), before[1])
        assert np.random.get_state()[1].tolist() == before[2]  # type: ignore[index]
    assert not torch.equal(view(picture, Drawn(0, 1)), view(picture, Drawn(0, 2)))


@pytest.mark.parametrize(
    ("changes", "size", "crop_pct"),
    [
        ({}, 32, 0.8),
        ({"crop_pct": None}, 32, 0.875),
        ({"crop_pct": None, "test_size": None}, 24, 0.875),
        ({"crop_pct": None, "test_size": None, "image_size": None}, 48, 0.95),  # the network's own test size
        ({"crop_pct": None, "test_size": None, "train_crop_mode": None, "color_jitter": 0.0}, 24, 1.0),
    ],
)
def test_evaluation_images_are_timms(
    photographs: list[Image.Image], changes: dict[str, Any], size: int, crop_pct: float
) -> None:
    config = {**CONFIG, "test_input_size": (3, 48, 48), "test_crop_pct": 0.95}
    recipe = RECIPE.replace(**changes)
    assert evaluation_settings(recipe, config)["crop_pct"] == crop_pct
    timms = create_transform(size, crop_pct=crop_pct, interpolation="bicubic", normalize=False)
    for view in (training_view(recipe, config), view_of_tests(recipe, config)):
        assert all(torch.equal(view(picture, 0), timms(picture)) for picture in photographs)


def test_ten_crops_are_cut_from_images_with_their_shorter_side_resized(photographs: list[Image.Image]) -> None:
    view = view_of_tests(RECIPE.replace(ten_crop=(40, 40)), CONFIG)
    timms = create_transform(40, crop_pct=1.0, interpolation="bicubic", normalize=False)
    assert all(torch.equal(view(picture, 0), timms(picture)) for picture in photographs)


def test_adapting_trains_on_what_the_network_sees_at_its_training_size(photographs: list[Image.Image]) -> None:
    config = {**CONFIG, "test_input_size": (3, 48, 48), "test_crop_pct": 0.95}
    view = training_view(load_recipe("adapt"), config)
    timms = create_transform(32, crop_pct=0.875, interpolation="bicubic", normalize=False)
    assert all(torch.equal(view(picture, Drawn(0, 3)), timms(picture)) for picture in photographs)


def test_rows_carry_their_seeds_whoever_takes_them() -> None:
    whole = [row for part in Batches(50, 12, 7).parts(2, 0, 4) for row in part.indices]
    assert len({row.seed for row in whole}) == 48  # type: ignore[attr-defined]
    shared = [Batches(50, 12, 7, 2, process, 2).parts(2, 0, 4) for process in range(2)]
    divided = [row for process in shared for part in process for row in part.indices]
    assert {(row, row.seed) for row in divided} == {(row, row.seed) for row in whole}  # type: ignore[attr-defined]
    again = pickle.loads(pickle.dumps(whole[0]))
    assert (again, again.seed) == (whole[0], whole[0].seed)  # type: ignore[attr-defined]
    assert not {row.seed for part in Batches(50, 12, 7).parts(3, 0, 4) for row in part.indices} & {  # type: ignore[attr-defined]
        row.seed
        for row in whole  # type: ignore[attr-defined]
    }


def test_repeats_are_timms() -> None:
    data = ImageSplit(torch.zeros(600, 3, 1, 1), torch.zeros(600), ())
    sampler = RepeatAugSampler(data, num_replicas=1, rank=0, num_repeats=3)
    sampler.set_epoch(stream(7, 4))
    rows = [row for part in Batches(600, 64, 7, repeats=3).parts(4, 0, 8) for row in part.indices]
    assert rows == list(sampler)[: len(rows)]
    assert len({row.seed for row in rows}) == len(rows) == 512  # type: ignore[attr-defined]


@pytest.mark.parametrize("mode", ["batch", "pair", "elem"])
@pytest.mark.parametrize("count", [8, 7, 1])
def test_images_are_mixed_by_timm(mode: str, count: int) -> None:
    model = timm.create_model("resnet20", num_classes=5)
    recipe = Recipe(
        epochs=1, padding=0, flip=False, mixup=0.3, cutmix=0.7, mixup_prob=0.9, mixup_mode=mode, label_smoothing=0.1
    )  # type: ignore[arg-type]
    task = Classification(model, recipe)
    images, labels = torch.randint(0, 256, (count, 3, 16, 16), dtype=torch.uint8), torch.arange(count) % 5
    inputs, targets = task.inputs((images, labels), SampleRandom(11, count))
    expected, pairs = normalize(images, task.mean, task.std), count - count % 2
    shares = torch.full((count, 5), 0.02).scatter(1, labels[:, None], 0.92)
    if pairs:
        mixup = Mixup(0.3, 0.7, prob=0.9, mode=mode, label_smoothing=0.1, num_classes=5)
        np.random.seed(stream(11, 0) % 2**32)
        expected[:pairs], shares[:pairs] = mixup(expected[:pairs].clone(), labels[:pairs])
    assert torch.equal(inputs, expected)
    torch.testing.assert_close(targets, shares)
    outputs = torch.randn(count, 5)
    torch.testing.assert_close(task.loss(outputs, targets), SoftTargetCrossEntropy()(outputs, shares))
    figures = task.measure(outputs, targets)
    torch.testing.assert_close(figures[:, 1], (outputs.argmax(1) == shares.argmax(1)).float())
    assert torch.equal(task.inputs((images, labels), None)[1], labels)  # never in evaluation


@pytest.mark.parametrize("threshold", [None, 0.2])
def test_binary_cross_entropy_is_timms(threshold: float | None) -> None:
    model, outputs, labels = timm.create_model("resnet20", num_classes=5), torch.randn(6, 5), torch.arange(6) % 5
    recipe = Recipe(epochs=1, bce_loss=True, bce_target_thresh=threshold, label_smoothing=0.1)
    task, timms = Classification(model, recipe), BinaryCrossEntropy(0.1, threshold)
    for targets in (labels, torch.rand(6, 5)):
        torch.testing.assert_close(task.loss(outputs, targets), timms(outputs, targets))
    assert type(create_optimizer(model, load_recipe("imagenet_a3"))) is Lamb


def test_seeds_leave_other_random_numbers_alone() -> None:
    torch.manual_seed(5)
    expected = torch.rand(2)
    torch.manual_seed(5)
    with seeded(2**62):
        torch.rand(1)
    assert torch.equal(torch.rand(2), expected)


def train(folder: Path, output: Path, recipe: Recipe = RECIPE, **options: Any) -> dict[str, Any]:
    execution = Execution(progress=False, **{"workers": 0, "report": lambda _: None, **options})
    return run.train("resnet20_lasilu", recipe, str(folder), output, execution=execution)  # type: ignore[return-value]


def test_a_run_is_evaluated_as_the_command_does(folder: Path, tmp_path: Path) -> None:
    result = train(folder, tmp_path / "run")
    found = evaluate(f"local-dir:{tmp_path / 'run' / 'model'}", str(folder), progress=False, report=lambda _: None)
    assert result["test"]["top1"] == pytest.approx(found["top1"])
    assert result["test"]["loss"] == pytest.approx(found["loss"], rel=1e-5)
    assert found["settings"]["input_size"] == (3, 32, 32)
    config = json.loads((tmp_path / "run" / "model" / "config.json").read_text())["pretrained_cfg"]
    assert (config["input_size"], config["test_input_size"]) == ([3, 24, 24], [3, 32, 32])
    assert (config["test_crop_pct"], config["interpolation"], config["crop_mode"]) == (0.8, "bicubic", "center")
    assert {"train_crop_mode", "mixup", "crop_pct"} <= {*result["recipe"]}
    assert "aug_repeats" not in result["recipe"]


def test_whole_images_are_recorded_too(folder: Path, tmp_path: Path) -> None:
    result = train(
        folder, tmp_path / "run", Recipe(name="whole", epochs=1, batch_size=16, image_size=(16, 16), lr=0.01)
    )
    found = evaluate(f"local-dir:{tmp_path / 'run' / 'model'}", str(folder), progress=False, report=lambda _: None)
    assert result["test"]["loss"] == pytest.approx(found["loss"], rel=1e-5)
    assert (found["settings"]["input_size"], found["settings"]["crop_pct"]) == ((3, 16, 16), 1.0)


def test_workers_and_a_death_change_nothing(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = RECIPE.replace(auto_augment="rand-m7-mstd0.5-inc1", random_erasing=0.3, aug_repeats=2, drop_path=0.1)
    train(folder, tmp_path / "whole", recipe)
    steps = Trainer._optimizer_step

    def die(trainer: Trainer) -> None:
        if trainer.step == 3:
            raise KeyboardInterrupt
        steps(trainer)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "_optimizer_step", die)
        with pytest.raises(KeyboardInterrupt):
            train(folder, tmp_path / "dies", recipe, workers=2, checkpoint_steps=1)
    train(folder, tmp_path / "dies", recipe, workers=2, resume=True)
    for name in ("result.json", "log.jsonl", "best.safetensors", "model/model.safetensors"):
        assert (tmp_path / "dies" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes(), name


def test_the_next_image_takes_the_place_and_the_seed_of_a_broken_one(folder: Path, tmp_path: Path) -> None:
    for path in folder.rglob("*.png"):
        copy = tmp_path / "data" / path.relative_to(folder)
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes(path.read_bytes())
    next((tmp_path / "data" / "train").rglob("*.png")).write_bytes(b"\x89PNG\r\n\x1a\n")
    lines: list[str] = []
    train(tmp_path / "data", tmp_path / "run", skip_unreadable=True, report=lines.append)
    assert sum("Left out" in line for line in lines) == 1


def test_held_out_photographs_are_not_cropped_at_random(folder: Path) -> None:
    splits = Classification.splits(str(folder), RECIPE, CONFIG, progress=False)
    train_split, held = holdout(splits["train"], 0.2, 0)
    assert isinstance(train_split, StoredSplit)
    assert train_split.__getitems__([Drawn(0, 1), Drawn(1, 2)])[0].shape == (2, 3, 24, 24)
    images, _ = held.__getitems__([0, 1])
    assert images.shape == (2, 3, 32, 32)
    assert torch.equal(images, held.__getitems__([0, 1])[0])
    picture = held.encoded.open(0)  # type: ignore[union-attr]
    timms = create_transform(32, crop_pct=0.8, interpolation="bicubic", normalize=False)
    assert torch.equal(images[0], timms(picture))
    assert not torch.equal(images[0], pil_to_tensor(picture.resize((32, 32))))  # squashed


def test_images_in_memory_are_not_taken_for_photographs(digits: ImageSplit) -> None:
    with pytest.raises(UserError, match="train_crop_mode"):
        Classification(timm.create_model("resnet20"), RECIPE, digits)


def test_fine_tuning_crops_for_networks_of_photographs() -> None:
    names = {
        name: Start(name, pretrained).recipes["classification"]
        for name, pretrained in (("resnet50_lasilu.tin200", True), ("resnet20_lasilu", True), ("resnet50", False))
    }
    assert [*names.values()] == ["finetune_photographs", "finetune", "cifar10_resnet"]
    small, large = load_recipe("finetune").to_dict(), load_recipe("finetune_photographs").to_dict()
    assert {key for key in large if large[key] != small.get(key)} == {"name", "padding", "train_crop_mode", "scale"}
