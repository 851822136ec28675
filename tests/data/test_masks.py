"""Images with masks: where they come from, what happens to both alike, and the loss and figures of segmentation."""

import io
import shutil
import unicodedata
from pathlib import Path

import datasets
import numpy as np
import pyarrow
import pytest
import segmentation_models_pytorch as smp
import torch
from PIL import Image
from pyarrow import parquet
from torch import Tensor

from timm_layeract.data import masks
from timm_layeract.data.augment_masks import NUMBERS, random_windows
from timm_layeract.data.columns import Columns
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
    with pytest.raises(UserError, match=r"one called mask .*; its image columns are \['image', 'other'\]"):
        load_mask_splits(str(tmp_path / "parquet"), progress=False)


LAYOUTS = {
    "masks/train": lambda split: ("images/" + split, "masks/" + split),
    "training, Validation": lambda split: (f"{split}/images", f"{split}/masks"),
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("below", ["", "patient/scan"])
def test_folders_of_splits(tmp_path: Path, layout: str, below: str) -> None:
    for split in ("training", "Validation"):
        whole = folder(tmp_path / "whole" / split)
        for kind, place in zip(("images", "masks"), LAYOUTS[layout](split), strict=True):
            (tmp_path / "data" / place / below).parent.mkdir(parents=True, exist_ok=True)
            shutil.copytree(whole / kind, tmp_path / "data" / place / below, dirs_exist_ok=True)
    splits = load_mask_splits(str(tmp_path / "data"), progress=False)
    assert list(splits) == ["train", "test"]
    for split in splits.values():
        check(split)


@pytest.mark.parametrize("kind", ["images", "masks"])
def test_two_files_of_one_name_are_refused(tmp_path: Path, kind: str) -> None:
    data = folder(tmp_path)
    Image.fromarray(pairs()[0][1]).save(data / kind / "0.bmp")
    with pytest.raises(UserError, match=rf"{kind}/0\.bmp and 0\.\w+ have one name"):
        load_mask_splits(str(data), progress=False)


def test_names_are_compared_as_they_are_read(tmp_path: Path) -> None:
    data = folder(tmp_path)
    (data / "images" / "0.tif").rename(data / "images" / unicodedata.normalize("NFC", "é.tif"))
    (data / "masks" / "0.png").rename(data / "masks" / unicodedata.normalize("NFD", "é.png"))
    assert len(load_mask_splits(str(data), progress=False)["train"]) == 3


def encoded() -> dict[str, list[bytes]]:
    def png(values: np.ndarray) -> bytes:
        file = io.BytesIO()
        Image.fromarray(values).save(file, "PNG")
        return file.getvalue()

    return {name: [png(pair[which]) for pair in pairs()] for which, name in enumerate(("image", "mask"))}


def bytes_and_paths(root: Path) -> None:
    table = {name: [{"bytes": each, "path": None} for each in column] for name, column in encoded().items()}
    parquet.write_table(pyarrow.table(table), root / "train.parquet")  # as pandas writes it: no word of images


def clone(root: Path) -> None:
    (root / "data").mkdir()
    (root / "README.md").touch()
    data_set(root / "data" / "train-00000-of-00001.parquet")


SETS = {
    "bytes": lambda root: parquet.write_table(pyarrow.table(encoded()), root / "train.parquet"),
    "bytes and paths": bytes_and_paths,
    "a clone from the Hub": clone,
    "one split, saved": lambda root: datasets.Dataset.from_dict(encoded()).save_to_disk(root),
}


@pytest.mark.parametrize("name", SETS)
def test_data_sets_of_other_programs(tmp_path: Path, name: str) -> None:
    SETS[name](tmp_path)
    check(load_mask_splits(str(tmp_path), progress=False)["train"])


def test_columns_by_name(tmp_path: Path) -> None:
    data_set(tmp_path / "train.parquet", ("unmasked_image", "gt"))
    with pytest.raises(UserError, match="in colour"):  # by their names they are the other way round
        load_mask_splits(str(tmp_path), progress=False)
    named = Columns("unmasked_image", "gt")
    check(load_mask_splits(str(tmp_path), progress=False, columns=named)["train"])


def test_a_row_without_image_is_named(tmp_path: Path) -> None:
    features = datasets.Features(dict.fromkeys(("image", "mask"), datasets.Image()))
    rows = {name: [*column, None] for name, column in encoded().items()}
    datasets.Dataset.from_dict(rows, features=features).to_parquet(tmp_path / "train.parquet")
    with pytest.raises(UserError, match="row 3 has no image"):
        load_mask_splits(str(tmp_path), progress=False)


def test_what_does_not_fit_into_memory_is_read_when_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = folder(tmp_path)
    held = load_mask_splits(str(data), progress=False)["train"]
    monkeypatch.setattr(masks, "MAX_BYTES", 100)
    stored = load_mask_splits(str(data), progress=False)["train"]
    assert isinstance(stored, masks.StoredMasks)
    assert stored.workers > 0
    for other in (stored, stored.take(torch.tensor([2, 0, 1])).take(torch.tensor([1, 2, 0]))):
        assert (len(other), other.classes) == (3, ("foreground",))
        for together, apart in zip(held.__getitems__([2, 0]), other.__getitems__([2, 0]), strict=True):
            assert all(torch.equal(*each) for each in zip(together, apart, strict=True))
    assert stored.take(torch.tensor([1])).sha256() != stored.sha256()


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
