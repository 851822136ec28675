"""Segmentation into several classes: loss and figures against other libraries, training, adapting, predicting."""

import json
from pathlib import Path

import numpy as np
import pytest
import segmentation_models_pytorch as smp
import timm
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor
from torchmetrics import JaccardIndex
from typer.testing import CliRunner

import timm_layeract
from timm_layeract.adaptation import adapt
from timm_layeract.cli import app
from timm_layeract.data.masks import MaskSplit, load_mask_splits
from timm_layeract.data.pictures import colour, compare_masks, indexed, with_legend
from timm_layeract.errors import UserError
from timm_layeract.networks import load_network
from timm_layeract.prediction.files import predict_files
from timm_layeract.training.recipe import load_recipe
from timm_layeract.training.tasks.many_classes import class_counts, class_figures, cross_entropy_dice, divergence
from timm_layeract.training.tasks.segmentation import Segmentation

NAMES = ("back", "disc", "stripe")
SHORT = [
    *("--set", "image_size=[32,32]", "--set", "mixed_precision=no", "--set", "validation_fraction=0.2"),
    *("--batch-size", "8", "--lr", "0.01"),
]


def outputs_and_targets(classes: int = 5) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(4, classes, 17, 23, generator=generator)
    targets = torch.randint(0, classes - 1, (4, 17, 23), generator=generator).to(torch.uint8)  # one class is absent
    targets[0, :5] = 255
    targets[1] = targets[1].clamp(max=1)
    return logits, targets


def test_loss_is_smps_and_torchs_for_each_sample() -> None:
    logits, targets = outputs_and_targets()
    dice = smp.losses.DiceLoss("multiclass", smooth=0.5, ignore_index=255)
    for index in range(4):
        one, truth = logits[index : index + 1], targets[index : index + 1].long()
        # its `smooth` is added to the overlap, ours to twice the overlap; it counts ignored pixels as of class 0
        kept = truth[0] != 255
        row, expected_truth = one[:, :, kept][:, :, None], truth[:, kept][:, None]
        expected = dice(row, expected_truth) + F.cross_entropy(one, truth, ignore_index=255)
        torch.testing.assert_close(cross_entropy_dice(logits, targets)[index], expected)


def test_void_alone_costs_nothing() -> None:
    logits, targets = outputs_and_targets()
    logits.requires_grad_()
    targets[2] = 255
    losses = cross_entropy_dice(logits, targets)
    assert float(losses[2].detach()) == 0
    losses.sum().backward()
    assert logits.grad is not None
    assert logits.grad.isfinite().all()
    assert (logits.grad[2] == 0).all()


def test_figures_are_torchmetrics() -> None:
    logits, targets = outputs_and_targets()
    counts = class_counts(logits, targets).sum(0).tolist()
    found = class_figures(counts, [*"abcde"])
    options = dict(task="multiclass", num_classes=5, ignore_index=255)
    by_class = JaccardIndex(**options, average="none")(logits, targets.long())  # type: ignore[arg-type]
    assert [found[f"iou/{name}"] for name in "abcde"] == pytest.approx((100 * by_class).tolist(), rel=1e-6)
    assert found["iou"] == pytest.approx(100 * float(by_class.mean()), rel=1e-6)


def test_classes_that_are_nowhere_take_no_part() -> None:
    targets = torch.tensor([[[0, 0, 1, 255]]], dtype=torch.uint8)
    logits = F.one_hot(torch.tensor([[[0, 1, 1, 2]]]), 3).permute(0, 3, 1, 2).float()
    assert class_figures(class_counts(logits, targets)[0].tolist(), NAMES) == {
        "iou": 50,
        "dice": pytest.approx(200 / 3),
        "iou/back": 50,
        "iou/disc": 50,
    }
    assert class_figures([0] * 9, NAMES) == {"iou": 100, "dice": 100}


def test_divergence_is_least_where_predictions_agree() -> None:
    logits, _ = outputs_and_targets()
    assert float(divergence(logits + 1, logits)) == pytest.approx(0, abs=1e-6)
    expected = torch.distributions.kl_divergence(
        *(torch.distributions.Categorical(logits=each.movedim(1, -1)) for each in (logits, logits.roll(1, 0)))
    ).mean()
    torch.testing.assert_close(divergence(logits.roll(1, 0), logits), expected)


def pictures(count: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Noisy pictures of a bright disc and a dark stripe, and their classes, with a border of void round the disc."""
    random = np.random.default_rng(0)
    y, x = np.mgrid[:40, :48]
    found = []
    for _ in range(count):
        far = (y - random.integers(8, 32)) ** 2 + (x - random.integers(8, 40)) ** 2
        stripe = abs(x - random.integers(4, 44)) < 4
        mask = np.where(far < 60, 1, np.where(far < 80, 255, np.where(stripe, 2, 0))).astype(np.uint8)
        bright = np.choose(np.where(far < 80, 1, 2 * stripe), [110, 220, 20])
        noisy = bright[..., None] + 12 * random.standard_normal((40, 48, 3))
        found.append((noisy.clip(0, 255).astype(np.uint8), mask))
    return found


def folder(root: Path, names: tuple[str, ...] = NAMES) -> Path:
    for split, drawn in (("train", pictures(40)), ("test", pictures(43)[40:])):
        for kind in ("images", "masks"):
            (root / split / kind).mkdir(parents=True)
        for index, (image, mask) in enumerate(drawn):
            Image.fromarray(image).save(root / split / "images" / f"{index}.png")
            indexed(torch.from_numpy(mask)).save(root / split / "masks" / f"{index}.png")
    if names:
        (root / "classes.txt").write_text("\n".join(names))
    return root


def run(*arguments: object) -> str:
    done = CliRunner().invoke(app, [*map(str, arguments)], catch_exceptions=False)
    assert done.exit_code == 0, done.stderr
    return done.stdout


def train(data: Path, output: Path, model: str = "unet_lasilu", *more: str) -> dict:
    run("train", "-m", model, "-d", data, "-o", output, "--task", "segmentation", *SHORT, *more)
    return json.loads((output / "result.json").read_text())


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    root = tmp_path_factory.mktemp("classes")
    train(folder(root / "data"), root / "run", "unet_lasilu", "--epochs", "6")
    return root / "data", root / "run"


def test_training_learns_each_class(trained: tuple[Path, Path], tmp_path: Path) -> None:
    data, run_folder = trained
    result = json.loads((run_folder / "result.json").read_text())
    assert result["test"]["iou"] > 80
    assert result["test"]["iou"] == pytest.approx(sum(result["test"][f"iou/{name}"] for name in NAMES) / 3)
    # by the files that a user gets, and another library
    images = sorted((data / "test" / "images").iterdir())
    assert not predict_files(str(run_folder), images, tmp_path, progress=False, report=lambda _: None)
    metric = JaccardIndex(task="multiclass", num_classes=3, ignore_index=255, average="none")
    for path in images:
        with Image.open(tmp_path / f"{path.stem}.mask.png") as picture:
            assert picture.mode == "P"
            assert bytes(picture.getpalette()[3:6]) == bytes.fromhex(colour(1)[1:])
            found = torch.from_numpy(np.array(picture))
        truth = torch.from_numpy(np.array(Image.open(data / "test" / "masks" / path.name)))
        metric.update(found[None], truth[None].long())
        with Image.open(tmp_path / f"{path.stem}.overlay.png") as drawn:
            assert drawn.size[1] > 40  # with a legend below
    assert [result["test"][f"iou/{name}"] for name in NAMES] == pytest.approx(
        (100 * metric.compute()).tolist(), abs=0.5
    )
    config = json.loads((run_folder / "model" / "config.json").read_text())
    assert config["label_names"] == list(NAMES)


def test_a_trained_network_is_adapted_without_being_told(trained: tuple[Path, Path], tmp_path: Path) -> None:
    data, run_folder = trained
    adapted = adapt(
        str(run_folder), "silu", data=str(data), output=tmp_path / "adapted", epochs=1, progress=False,
        image_size=[32, 32], mixed_precision="no", statistics_batches=2,
    )  # fmt: skip
    result = json.loads((tmp_path / "adapted" / "result.json").read_text())
    assert result["recipe"]["masks"] == "classes"
    assert result["test"]["iou"] > 60
    assert adapted(torch.zeros(1, 3, 32, 32)).shape == (1, 3, 32, 32)
    wrong = folder(tmp_path / "wrong", ("back", "stripe", "disc"))
    with pytest.raises(UserError, match="names the classes back, stripe, disc, and back, disc, stripe are expected"):
        adapt(str(run_folder), "silu", data=str(wrong), epochs=1, progress=False)


def test_fine_tuning_takes_a_new_head_where_classes_differ(trained: tuple[Path, Path], tmp_path: Path) -> None:
    options = ["--task", "segmentation", *SHORT, "--epochs", "1"]
    other = folder(tmp_path / "other", ("ground", "cell", "fibre"))
    run("finetune", "-m", trained[1], "-d", other, "-o", tmp_path / "new", *options)
    assert timm_layeract.data.classes.label_names(load_network(str(tmp_path / "new"))) == ("ground", "cell", "fibre")
    old = load_network("unet_lasilu.nuclei")
    run("finetune", "-m", "unet_lasilu", "-d", other, "-o", tmp_path / "shipped", *options, "--lr", "1e-30")
    new = load_network(str(tmp_path / "shipped"))
    assert new.heads[0].weight.shape[0] == 3  # type: ignore[union-attr,index]
    torch.testing.assert_close(new.encoder[0].conv1.weight, old.encoder[0].conv1.weight)  # type: ignore[union-attr,index]


def test_networks_of_smp(trained: tuple[Path, Path], tmp_path: Path) -> None:
    data, _ = trained
    result = train(data, tmp_path / "run", "smp:unet_lasilu/resnet18_lasilu", "--epochs", "1")
    assert {f"iou/{name}" for name in NAMES} <= result["test"].keys()
    model = load_network(f"smp:{tmp_path / 'run' / 'model'}")
    assert timm_layeract.data.classes.label_names(model) == NAMES
    named = timm_layeract.adaptation.target.target_network(model, "silu")
    assert timm_layeract.data.classes.label_names(named) == NAMES
    two = folder(tmp_path / "other", ("ground", "cell", "fibre", "rare"))
    options = ["--task", "segmentation", *SHORT, "--epochs", "1", "--lr", "1e-30"]
    run("finetune", "-m", f"smp:{tmp_path / 'run' / 'model'}", "-d", two, "-o", tmp_path / "tuned", *options)
    tuned = load_network(f"smp:{tmp_path / 'tuned' / 'model'}")
    assert tuned.num_classes == 4
    for (name, kept), before in zip(tuned.decoder.named_parameters(), model.decoder.parameters(), strict=True):
        torch.testing.assert_close(kept, before, msg=name)


def split(*values: int, classes: tuple[str, ...]) -> MaskSplit:
    mask = torch.tensor([values], dtype=torch.uint8)
    return MaskSplit((torch.zeros(3, *mask.shape, dtype=torch.uint8),), (mask,), classes)


def test_data_and_network_that_do_not_fit() -> None:
    recipe = load_recipe("segmentation_fast", image_size=[32, 32])
    three = timm.create_model("unet", num_classes=3, width=4)
    for classes, says in (
        (("foreground",), r"background and foreground, the network gives 3 map\(s\)"),
        ((*NAMES, "more"), r"of 4 classes, the network gives 3"),
    ):
        with pytest.raises(UserError, match=says):
            Segmentation(three, recipe, split(0, 1, classes=classes))
    assert Segmentation(three, recipe, split(0, 1, classes=("a", "b"))).names == ("a", "b", "2")
    with pytest.raises(UserError, match="images of 4 channels; image files have 3"):
        Segmentation(timm.create_model("unet", in_chans=4, width=4), recipe)
    with pytest.raises(UserError, match="masks is not for classification"):
        timm_layeract.training.tasks.Classification(
            timm.create_model("resnet20"), load_recipe("cifar10_fast", masks="classes")
        )


def test_palettes_with_void_are_read_as_they_are(trained: tuple[Path, Path]) -> None:
    data, _ = trained
    splits = load_mask_splits(str(data), progress=False)
    assert splits["train"].classes == NAMES
    assert {255} < set(torch.cat([mask.flatten() for mask in splits["train"].masks]).unique().tolist())


def test_every_class_has_a_colour_of_its_own() -> None:
    assert len({colour(label) for label in range(256)}) == 256
    drawn = indexed(torch.tensor([[0, 3], [254, 255]], dtype=torch.uint8))
    assert np.array(drawn).tolist() == [[0, 3], [254, 255]]
    assert drawn.convert("RGB").getpixel((1, 0)) == tuple(bytes.fromhex(colour(3)[1:]))


def test_a_legend_names_what_is_seen() -> None:
    picture = torch.zeros(3, 20, 200, dtype=torch.uint8)
    assert torch.equal(with_legend(picture, NAMES, [0]), picture)
    drawn = with_legend(picture, NAMES, [0, 1, 255])
    assert torch.equal(drawn[:, :20], picture)
    seen = {bytes(pixel.tolist()).hex() for pixel in drawn[:, 20:].flatten(1).T}
    assert {colour(1)[1:], colour(255)[1:]} <= seen
    assert colour(2)[1:] not in seen
    narrow = with_legend(picture[..., :5], ["", "a long name of a class"], [1])
    assert narrow.shape[2] > 50
    image, mask = torch.zeros(3, 8, 8, dtype=torch.uint8), torch.zeros(8, 8, dtype=torch.uint8)
    mask[0] = 2
    plain, named = (compare_masks([(image, mask, mask)], 8, names) for names in (("foreground",), NAMES))
    assert named.shape[1] > plain.shape[1]
