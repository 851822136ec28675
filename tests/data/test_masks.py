"""Images with masks: where they come from, what happens to both alike, and the loss and figures of segmentation."""

from pathlib import Path

import datasets
import numpy as np
import pytest
import segmentation_models_pytorch as smp
import torch
from PIL import Image
from torch import Tensor

from timm_layeract.data.augment_masks import NUMBERS, random_windows
from timm_layeract.data.masks import MaskSplit, load_mask_splits
from timm_layeract.errors import UserError
from timm_layeract.training.tasks.segmentation import IGNORED, bce_dice, overlap_counts

SIZES = [(20, 30), (33, 21), (16, 16)]


def pairs() -> list[tuple[np.ndarray, np.ndarray]]:
    """Random pictures whose mask is where the red is strong."""
    random = np.random.default_rng(0)
    images = [random.integers(0, 256, (*size, 3), np.uint8) for size in SIZES]
    return [(image, image[..., 0] > 127) for image in images]


def folder(root: Path) -> Path:
    (root / "images").mkdir(parents=True)
    (root / "masks").mkdir()
    for index, (image, mask) in enumerate(pairs()):
        Image.fromarray(image).save(root / "images" / f"{index}.tif")
        Image.fromarray(mask).save(root / "masks" / f"{index}.png")
    return root


def data_set(path: Path, names: tuple[str, str] = ("image", "mask")) -> None:
    columns = {name: [Image.fromarray(pair[which]) for pair in pairs()] for which, name in enumerate(names)}
    features = datasets.Features(dict.fromkeys(names, datasets.Image()))
    datasets.Dataset.from_dict(columns, features=features).to_parquet(path)


def check(split: MaskSplit) -> None:
    assert len(split) == 3
    for (image, mask), (expected, truth) in zip(split, pairs(), strict=True):
        np.testing.assert_array_equal(image.permute(1, 2, 0).numpy(), expected)
        np.testing.assert_array_equal(mask.numpy(), truth)


@pytest.mark.parametrize("split_folders", [False, True])
def test_folder_of_images_and_masks(tmp_path: Path, split_folders: bool) -> None:
    if split_folders:
        folder(tmp_path / "train")
        folder(tmp_path / "val")
    else:
        folder(tmp_path)
    splits = load_mask_splits(str(tmp_path), progress=False)
    assert list(splits) == (["train", "test"] if split_folders else ["train"])
    for split in splits.values():
        check(split)


@pytest.mark.parametrize("names", [("image", "mask"), ("annotation", "pixels"), ("picture", "label_map")])
def test_parquet(tmp_path: Path, names: tuple[str, str]) -> None:
    ordered = names if names[0] != "annotation" else ("pixels", "annotation")
    data_set(tmp_path / "train-0.parquet", ordered)
    data_set(tmp_path / "validation-0.parquet", ordered)
    splits = load_mask_splits(str(tmp_path), progress=False)
    assert list(splits) == ["train", "test"]
    check(splits["train"])


def test_data_that_cannot_be_used_is_named(tmp_path: Path) -> None:
    bad = folder(tmp_path / "bad")
    (bad / "masks" / "1.png").unlink()
    with pytest.raises(UserError, match=r"1\.tif has no mask masks/1\.png"):
        load_mask_splits(str(bad), progress=False)
    Image.fromarray(pairs()[0][1]).save(bad / "masks" / "1.png")
    with pytest.raises(UserError, match=r"1\.png has 20x30 pixels, its image 33x21"):
        load_mask_splits(str(bad), progress=False)
    (tmp_path / "half" / "images").mkdir(parents=True)
    with pytest.raises(UserError, match="none of masks"):
        load_mask_splits(str(tmp_path / "half"), progress=False)
    (tmp_path / "parquet").mkdir()
    data_set(tmp_path / "parquet" / "train.parquet", ("image", "other"))
    with pytest.raises(UserError, match=r"one called mask; its image columns are \['image', 'other'\]"):
        load_mask_splits(str(tmp_path / "parquet"), progress=False)


def test_split_takes_rows_and_has_an_identity(tmp_path: Path) -> None:
    split = load_mask_splits(str(folder(tmp_path)), progress=False)["train"]
    taken = split.take(torch.tensor([2, 0]))
    assert [tuple(mask.shape) for mask in taken.masks] == [(16, 16), (20, 30)]
    assert taken.sha256() != split.sha256() == load_mask_splits(str(tmp_path), progress=False)["train"].sha256()
    images, masks = split.__getitems__([1, 1])
    assert torch.equal(images[0], images[1])
    assert len(masks) == 2


def test_real_nuclei(nuclei: Path) -> None:
    splits = load_mask_splits(str(nuclei), progress=False)
    assert (len(splits["train"]), len(splits["test"])) == (531, 66)
    for image, mask in splits["test"]:
        assert image.shape[1:] == mask.shape
        assert 0 < float(mask.float().mean()) < 0.8
    assert len({tuple(mask.shape) for mask in splits["train"].masks}) > 5


def numbers(count: int, **fixed: float) -> Tensor:
    """Random numbers, with no change of zoom or light unless `fixed` says another."""
    drawn = torch.rand(count, NUMBERS, generator=torch.Generator().manual_seed(0))
    for column, name in enumerate(("zoom", "down", "across", "turn", "brightness", "contrast", "saturation")):
        if name not in ("down", "across", "turn"):
            drawn[:, column] = 0.5
        if name in fixed:
            drawn[:, column] = fixed[name]
    return drawn


def coded(height: int, width: int) -> tuple[Tensor, Tensor]:
    """A picture whose red and green say row and column, and whose mask is a function of them."""
    row, column = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    return torch.stack([row, column, row * 0]).to(torch.uint8), ((row * 7 + column * 3) % 2).to(torch.uint8)


@pytest.mark.parametrize("size", [(64, 90), (40, 40), (33, 100)])
def test_image_and_mask_move_together(size: tuple[int, int]) -> None:
    image, mask = coded(*size)
    images, masks = random_windows([image] * 40, [mask] * 40, 32, numbers(40))
    row, column = images[:, 0].long(), images[:, 1].long()
    assert torch.equal(masks, ((row * 7 + column * 3) % 2).to(torch.uint8))
    assert int(row.max()) < size[0]
    assert int(column.max()) < size[1]
    assert len({window.numpy().tobytes() for window in images}) > 20


def test_all_eight_turns_come_and_are_alike() -> None:
    image, mask = coded(32, 32)
    seen = []
    for turn in range(8):
        images, masks = random_windows([image], [mask], 32, numbers(1, turn=(turn + 0.5) / 8))
        row, column = images[0, 0].long(), images[0, 1].long()
        assert torch.equal(masks[0], mask[row, column])
        seen.append(images[0].numpy().tobytes())
    assert len(set(seen)) == 8


def test_small_images_are_mirrored_up_to_the_window() -> None:
    image, mask = coded(20, 24)
    images, masks = random_windows([image], [mask], 32, numbers(1, turn=0.0, down=0.0, across=0.0))
    expected = np.pad(mask.numpy(), ((0, 12), (0, 8)), mode="reflect")
    np.testing.assert_array_equal(masks[0].numpy(), expected)
    np.testing.assert_array_equal(images[0, 0].numpy(), np.pad(image[0].numpy(), ((0, 12), (0, 8)), mode="reflect"))


def test_zoom_changes_the_share_that_is_seen_and_light_the_image_only() -> None:
    image, mask = torch.full((3, 100, 100), 100, dtype=torch.uint8), torch.zeros(100, 100, dtype=torch.uint8)
    mask[45:55, 45:55] = 1
    middle = dict(down=0.5, across=0.5)
    far, near = (
        float(random_windows([image], [mask], 40, numbers(1, zoom=zoom, **middle))[1].sum()) for zoom in (0.999, 0.0)
    )
    assert near / far == pytest.approx(1.25**4, rel=0.15)
    bright, same = random_windows([image], [mask], 40, numbers(1, brightness=0.999, **middle))
    assert int(bright.min()) == pytest.approx(120, abs=1)
    assert set(same.unique().tolist()) == {0, 1}


def outputs_and_targets(seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(4, 1, 17, 23, generator=generator)
    targets = (torch.rand(4, 17, 23, generator=generator) < 0.3).to(torch.uint8)
    targets[3] = 0
    return logits, targets


def test_loss_is_smps_for_each_sample() -> None:
    logits, targets = outputs_and_targets()
    # its `smooth` is added to the overlap, ours (the usual one) to twice the overlap
    dice, entropy = smp.losses.DiceLoss("binary", smooth=0.5), smp.losses.SoftBCEWithLogitsLoss()
    # SMP's Dice loss leaves a batch without foreground out, so the last sample is checked by its formula.
    expected = [
        dice(logits[i : i + 1], targets[i : i + 1].long()) + entropy(logits[i : i + 1, 0], targets[i : i + 1].float())
        for i in range(3)
    ]
    torch.testing.assert_close(bce_dice(logits, targets)[:3], torch.stack(expected))
    probabilities = logits[3].sigmoid()
    empty = entropy(logits[3], targets[3:].float()) + 1 - 1 / (probabilities.sum() + 1)
    torch.testing.assert_close(bce_dice(logits, targets)[3], empty)


def test_counts_are_smps() -> None:
    logits, targets = outputs_and_targets(1)
    tp, fp, fn, _ = smp.metrics.get_stats(logits.sigmoid(), targets[:, None].long(), mode="binary", threshold=0.5)
    assert torch.equal(overlap_counts(logits, targets), torch.cat([tp, fp, fn], 1).double())


def test_padding_counts_for_nothing() -> None:
    logits, targets = outputs_and_targets()
    wide = torch.nn.functional.pad(logits, [0, 9, 0, 5], value=7.0)
    padded = torch.nn.functional.pad(targets, [0, 9, 0, 5], value=IGNORED)
    torch.testing.assert_close(bce_dice(wide, padded), bce_dice(logits, targets))
    assert torch.equal(overlap_counts(wide, padded), overlap_counts(logits, targets))


def test_loss_has_a_gradient_that_falls_towards_the_truth() -> None:
    _, targets = outputs_and_targets()
    logits = torch.zeros(4, 1, 17, 23, requires_grad=True)
    bce_dice(logits, targets).sum().backward()
    assert (logits.grad[:, 0].sign() == 1 - 2 * targets.float()).all()
