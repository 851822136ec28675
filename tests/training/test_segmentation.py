"""Segmentation as a task: what it trains on, evaluates and reports, on drawn discs and by the command line."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from typer.testing import CliRunner

from tests.overlap import mask_overlap
from timm_layeract import LASiLU
from timm_layeract.cli import app
from timm_layeract.data.augment import SampleRandom, normalize
from timm_layeract.data.masks import MaskSplit, load_mask_splits
from timm_layeract.data.tiles import tiles_for
from timm_layeract.errors import UserError
from timm_layeract.prediction.files import load_segmenter, predict_files
from timm_layeract.training import run
from timm_layeract.training.engine import Trainer
from timm_layeract.training.options import Execution
from timm_layeract.training.recipe import list_recipes, load_recipe
from timm_layeract.training.tasks.classification import Classification
from timm_layeract.training.tasks.segmentation import IGNORED, Segmentation, bce_dice

RECIPE = load_recipe("segmentation_fast", image_size=[32, 32], batch_size=8, epochs=6, lr=0.01, mixed_precision="no")
SIZES = [(40, 40), (33, 50), (64, 48)]


def discs(count: int, seed: int = 0) -> MaskSplit:
    """Noisy pictures of three sizes with a bright disc each."""
    random = np.random.default_rng(seed)
    images, masks = [], []
    for index in range(count):
        height, width = SIZES[index % len(SIZES)]
        y, x = np.ogrid[:height, :width]
        mask = (y - random.integers(10, height - 10)) ** 2 + (x - random.integers(10, width - 10)) ** 2 < 81
        image = np.clip(60 + 120 * mask[None] + 25 * random.standard_normal((3, height, width)), 0, 255)
        images.append(torch.from_numpy(image.astype(np.uint8)))
        masks.append(torch.from_numpy(mask.astype(np.uint8)))
    return MaskSplit(tuple(images), tuple(masks))


def network(name: str = "unet_lasilu", **options: object) -> torch.nn.Module:
    torch.manual_seed(0)
    if name.startswith("unet"):
        options = {"width": 4, **options}
    return timm.create_model(name, **options)


def test_training_learns_and_leaves_what_it_should(tmp_path: Path) -> None:
    lines: list[str] = []
    options = dict(data_name="discs", execution=Execution(progress=False, report=lines.append))
    test = discs(6, seed=1)
    result = run.train_on(network(), RECIPE, discs(40), test, tmp_path, **options)  # type: ignore[arg-type]
    log = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert log[-1]["train"]["loss"] < 0.7 * log[0]["train"]["loss"]
    assert result["validation"]["iou"] == max(record["val"]["iou"] for record in log) > 70
    assert "iou" in lines[-1]
    with Image.open(tmp_path / "examples.png") as picture:
        assert picture.size == (3 * 256 + 4 * 4, 4 * 256 + 5 * 4)
    # the saved model, by the way that users take, over the pixels of all test images
    segmenter = load_segmenter(f"local-dir:{tmp_path / 'model'}")
    tiles = tiles_for(segmenter.model, segmenter.stride)
    assert tiles == (32, 8)  # of the windows that it was trained on
    both, either = mask_overlap(segmenter, test, tiles)
    assert result["test"]["iou"] == pytest.approx(100 * both / either, abs=1e-6)
    assert result["test"]["dice"] == pytest.approx(200 * both / (both + either), abs=1e-6)


class Watched(torch.nn.Module):
    """A map of two classes, or one, that remembers what it was shown."""

    def __init__(self, act: torch.nn.Module, classes: int = 1) -> None:
        super().__init__()
        self.conv, self.act, self.head = torch.nn.Conv2d(3, 4, 3, 1, 1), act, torch.nn.Conv2d(4, classes, 1)
        self.shown: list[tuple[int, ...]] = []

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.shown.append(tuple(x.shape[2:]))
        return self.head(self.act(self.conv(x)))


@pytest.mark.parametrize("classes", [1, 3])
@pytest.mark.parametrize(
    ("act", "tile", "shown"),
    [
        (LASiLU, None, {(32, 32)}),
        (torch.nn.ReLU, None, {(512, 96)}),
        (LASiLU, 0, {(624, 96)}),
        (torch.nn.ReLU, 64, {(64, 64)}),
    ],
    ids=["layeract", "relu", "whole", "asked for"],
)
def test_evaluation_shows_a_network_what_prediction_does(
    act: type[torch.nn.Module], tile: int | None, shown: set[tuple[int, int]], classes: int
) -> None:
    """Tiles of the training windows' size with LayerAct, large ones without, or those asked for."""
    made = network()
    task = Segmentation(made, RECIPE.replace(tile=tile))
    torch.manual_seed(1)
    watched = Watched(act(), classes).eval()
    inputs, _ = task.inputs(([torch.randint(0, 256, (3, 620, 90), dtype=torch.uint8)], [torch.zeros(620, 90)]), None)
    with torch.no_grad():
        logits = task.predict(watched, inputs)
        assert set(watched.shown) == shown
        whole = watched(inputs)
    chance, right = ((each.sigmoid() if classes == 1 else each.softmax(1)) for each in (logits, whole))
    assert chance.shape == (1, classes, 624, 96)
    if act is torch.nn.ReLU or tile == 0:  # what it sees around a pixel is less than what tiles share
        torch.testing.assert_close(chance[..., 2:-2, 2:-2], right[..., 2:-2, 2:-2], rtol=0, atol=0.03)


def test_images_of_one_size_in_training_validation_test_and_prediction(tmp_path: Path) -> None:
    """As the authors' code does it; masks that are predicted have the image's own size again."""
    lines: list[str] = []
    options = dict(data_name="discs", execution=Execution(progress=False, report=lines.append))
    recipe, test = RECIPE.replace(crop_mode="squash", epochs=3), discs(6, seed=1)
    result = run.train_on(network(), recipe, discs(40), test, tmp_path / "run", **options)  # type: ignore[arg-type]
    assert result["recipe"]["crop_mode"] == "squash"
    segmenter = load_segmenter(f"local-dir:{tmp_path / 'run' / 'model'}")
    assert segmenter.size == 32
    both = either = 0
    for index, (image, mask) in enumerate(zip(test.images, test.masks, strict=True)):
        picture = Image.fromarray(image.permute(1, 2, 0).numpy())
        picture.save(tmp_path / f"{index}.png")
        small = np.asarray(picture.resize((32, 32), Image.Resampling.BILINEAR)) / 255
        x = (small - np.array(segmenter.mean)) / np.array(segmenter.std)
        with torch.no_grad():
            logits = segmenter.model(torch.from_numpy(x).permute(2, 0, 1)[None].float())
        found = logits[0, 0].numpy() >= 0
        truth = np.asarray(Image.fromarray(mask.numpy()).resize((32, 32), Image.Resampling.NEAREST)) == 1
        both, either = both + int((found & truth).sum()), either + int((found | truth).sum())
    assert result["test"]["iou"] == pytest.approx(100 * both / either, abs=0.5)  # Pillow rounds the images otherwise
    assert result["test"]["iou"] > 50
    masks = tmp_path / "masks"
    assert not predict_files(segmenter.model, sorted(tmp_path.glob("*.png")), masks, report=lines.append)
    assert "images resized to 32x32 pixels" in lines
    for index, (_, mask) in enumerate(zip(test.images, test.masks, strict=True)):
        with Image.open(masks / f"{index}.mask.png") as drawn:
            assert drawn.size == (mask.shape[1], mask.shape[0])
            found = np.asarray(drawn) > 0
        truth = mask.numpy() == 1
        assert (found & truth).sum() / (found | truth).sum() > 0.4
    with pytest.raises(UserError, match="leave out --tile"):
        predict_files(segmenter.model, [tmp_path / "0.png"], masks, tile=64)


def test_other_crops_are_refused() -> None:
    with pytest.raises(UserError, match="crop_mode of segmentation is squash"):
        Segmentation(network(), RECIPE.replace(crop_mode="center"))


def test_a_tile_that_the_network_does_not_take_is_refused() -> None:
    with pytest.raises(UserError, match="multiple of 16"):
        Segmentation(network(), RECIPE.replace(tile=40))


def test_a_resumed_run_ends_like_one_that_was_not_interrupted(tmp_path: Path) -> None:
    recipe = RECIPE.replace(epochs=2)
    execution = Execution(progress=False, report=lambda _: None, checkpoint_steps=1)

    def train(folder: str, **changes: Any) -> None:
        changed = replace(execution, **changes)
        run.train_on(network(), recipe, discs(24), None, tmp_path / folder, data_name="discs", execution=changed)

    train("whole")

    def die(line: str) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train("cut", report=die)
    train("cut", resume=True)
    results = [json.loads((tmp_path / name / "result.json").read_text()) for name in ("whole", "cut")]
    assert results[0] == results[1]


def task(name: str = "unet_lasilu", **changes: object) -> Segmentation:
    return Segmentation(network(name), RECIPE.replace(**changes))


def test_training_windows_do_not_depend_on_how_a_batch_is_shared_out() -> None:
    split = discs(6)
    whole = task().inputs(split.__getitems__(range(6)), SampleRandom(3, 6))
    parts = [
        task().inputs(split.__getitems__(range(6)[rows]), SampleRandom(3, 6, rows))
        for rows in (slice(0, 2), slice(2, 6))
    ]
    for together, *apart in zip(whole, *parts, strict=True):
        assert torch.equal(together, torch.cat(apart))
    assert whole[0].shape == (6, 3, 32, 32)


def test_without_flip_windows_stay_upright() -> None:
    row = torch.arange(64, dtype=torch.uint8)[:, None].expand(64, 64)
    split = MaskSplit((row.expand(3, -1, -1).contiguous(),) * 8, (row % 2,) * 8)
    windows, _ = task(flip=False).inputs(split.__getitems__(range(8)), SampleRandom(0, 8))
    assert (windows.diff(dim=-2) >= 0).all()
    turned, _ = task().inputs(split.__getitems__(range(8)), SampleRandom(0, 8))
    assert not (turned.diff(dim=-2) >= 0).all()


def test_whole_images_are_padded_to_the_stride_and_padding_is_ignored() -> None:
    image, mask = discs(2)[1]
    inputs, targets = task().inputs(([image], [mask]), None)
    assert inputs.shape == (1, 3, 48, 64)
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    torch.testing.assert_close(inputs[..., :33, :50], normalize(image[None], mean, std))
    assert torch.equal(targets[0, :33, :50], mask)
    assert (targets[0, 33:] == IGNORED).all()
    assert (targets[0, :, 50:] == IGNORED).all()


def test_deep_supervision_is_trained_at_every_output() -> None:
    model = network("unetplusplus_dsv").train()
    supervised = Segmentation(model, RECIPE)
    inputs, targets = supervised.inputs(discs(3).__getitems__([0, 1]), SampleRandom(0, 2))
    outputs = model(inputs)
    expected = sum(bce_dice(output, targets).mean() for output in outputs) / 4
    torch.testing.assert_close(supervised.loss(outputs, targets), expected)
    torch.testing.assert_close(
        supervised.measure(outputs.detach(), targets)[:, 0], bce_dice(outputs[-1], targets).double()
    )


def test_figures_of_images_without_foreground() -> None:
    assert task().summarise([0.5, 0.0, 0.0, 0.0]) == {"loss": 0.5, "iou": 100.0, "dice": 100.0}
    assert task().summarise([0.5, 2.0, 1.0, 1.0]) == {"loss": 0.5, "iou": 50.0, "dice": pytest.approx(200 / 3)}


def test_smaller_windows_at_first(tmp_path: Path) -> None:
    recipe = RECIPE.replace(epochs=2, batch_size=4, progressive_sizes=[[0.5, 16]], image_size=[32, 32], accumulate=1)
    model = network("unet_nobn_lasilu")
    sides: list[tuple[bool, int]] = []
    model.register_forward_pre_hook(lambda module, inputs: sides.append((module.training, inputs[0].shape[-1])))
    split = discs(8)
    list(Trainer(model, recipe, Segmentation(model, recipe, split), split, split, tmp_path, progress=False).fit())
    trained = [side for training, side in sides if training]
    assert trained[:2] == [16, 16]
    assert {*trained[2:]} == {32}


def test_windows_and_masks_are_made_smaller_alike() -> None:
    """A square of 8 on a field of 32, at twice the side, is one of 4 on 16, in image and mask."""
    image, mask = torch.zeros(3, 32, 32, dtype=torch.uint8), torch.zeros(32, 32, dtype=torch.uint8)
    image[:, 8:16, 20:28], mask[8:16, 20:28] = 255, 1
    recipe = RECIPE.replace(image_size=[32, 32], flip=False)
    segmentation = Segmentation(network(), recipe)
    inputs, targets = segmentation.inputs(([image], [mask]), SampleRandom(0, 1), 16)
    assert (inputs.shape, targets.shape, targets.dtype) == ((1, 3, 16, 16), (1, 16, 16), torch.uint8)
    bright = inputs[0, 0] > inputs[0, 0].mean() + inputs[0, 0].std()
    assert torch.equal(bright, targets[0] == 1)
    assert int(targets.sum()) == 16


@pytest.mark.parametrize(
    ("name", "options", "changes", "says"),
    [
        ("resnet20_lasilu", {}, {}, r"resnet20_lasilu gives \(10,\).*unet_lasilu"),
        ("resnet20_lasilu", {"num_classes": 3}, {}, r"gives \(3,\).*a map of that size for each class"),
        ("unet_lasilu", {}, {"image_size": [32, 64]}, r"a square, not \(32, 64\)"),
        ("unet_lasilu", {}, {"label_smoothing": 0.1}, "label_smoothing is not for segmentation"),
        ("unet_lasilu", {}, {"progressive_sizes": [[0.5, 24]]}, "progressive_sizes .* multiples of 16, not 24"),
    ],
)
def test_what_cannot_be_trained_is_refused(name: str, options: dict, changes: dict, says: str) -> None:
    with pytest.raises(UserError, match=says):
        Segmentation(network(name, **options), RECIPE.replace(**changes))


def test_a_segmentation_network_is_no_classifier() -> None:
    with pytest.raises(UserError, match="--task segmentation"):
        Classification(network(), load_recipe("cifar10_fast"))


def folder_of_discs(folder: Path) -> Path:
    for kind in ("images", "masks"):
        (folder / kind).mkdir(parents=True)
    for index, (image, mask) in enumerate(discs(20)):
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(folder / "images" / f"{index}.png")
        Image.fromarray(255 * mask.numpy()).save(folder / "masks" / f"{index}.png")
    return folder


def test_command_line(tmp_path: Path) -> None:
    folder_of_discs(tmp_path / "data")
    options = ["--epochs", "1", "--batch-size", "9", "--set", "image_size=[16,16]", "--set", "mixed_precision=no"]
    command = ["train", "-m", "unet_nobn_lasilu", "-d", str(tmp_path / "data"), "-o", str(tmp_path / "run")]
    done = CliRunner().invoke(app, [*command, "--task", "segmentation", *options], catch_exceptions=False)
    assert done.exit_code == 0
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert result["recipe"]["name"] == "segmentation_fast"
    assert result["data"]["train_sha256"] == load_mask_splits(str(tmp_path / "data"), False)["train"].sha256()
    with pytest.raises(UserError, match=r"cifar10_fast is for classification; for segmentation: .*segmentation_fast"):
        CliRunner().invoke(app, [*command, "--task", "segmentation", "-r", "cifar10_fast"], catch_exceptions=False)


def test_fine_tuning_starts_from_what_the_nuclei_taught(tmp_path: Path) -> None:
    data = folder_of_discs(tmp_path / "data")
    short = ["-d", str(data), "--task", "segmentation", "--epochs", "2", "--set", "image_size=[32,32]"]
    found = {}
    for command, recipe in (("train", ["-r", "finetune_segmentation"]), ("finetune", [])):
        run_folder = tmp_path / command
        arguments = [command, "-m", "unet_lasilu", *short, *recipe, "-o", str(run_folder)]
        assert CliRunner().invoke(app, arguments, catch_exceptions=False).exit_code == 0
        result = json.loads((run_folder / "result.json").read_text())
        assert result["recipe"]["name"] == "finetune_segmentation"
        found[command] = result["validation"]["iou"]
    assert found["finetune"] > 80 > found["train"]


def test_the_papers_recipe_is_the_papers() -> None:
    recipe = load_recipe("segmentation_paper")
    assert (recipe.optimizer, recipe.lr, recipe.weight_decay) == ("adam", 3e-4, 1e-4)
    assert (recipe.epochs, recipe.schedule, recipe.task) == (100, "cosine", "segmentation")
    assert {"segmentation_fast", "segmentation_paper"} <= set(list_recipes())


@pytest.mark.slow
def test_real_nuclei_are_learned(tmp_path: Path, nuclei: Path) -> None:
    train = load_mask_splits(str(nuclei), progress=False)["train"]
    small = torch.tensor([index for index, mask in enumerate(train.masks) if mask.shape == (256, 256)][:60])
    recipe = RECIPE.replace(epochs=4, image_size=[64, 64])
    result = run.train_on(
        network(width=8),
        recipe,
        train.take(small),
        None,
        tmp_path,
        data_name="nuclei",
        execution=Execution(progress=False),
    )
    log = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert log[-1]["train"]["loss"] < log[0]["train"]["loss"]
    assert result["validation"]["iou"] > 40
