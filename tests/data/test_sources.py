"""Reading data: parquet folders and image folders made from real digits, the real CIFAR-10, and every refusal."""

from pathlib import Path

import datasets
import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from timm_layeract.data import sources
from timm_layeract.data.sources import ImageSplit, StoredSplit, load_splits
from timm_layeract.data.splits import holdout
from timm_layeract.errors import UserError


def pictures(split: ImageSplit, count: int) -> list[Image.Image]:
    return [Image.fromarray(image.permute(1, 2, 0).numpy()) for image in split.images[:count]]


def parquet(folder: Path, split: ImageSplit, counts: dict[str, int]) -> None:
    """Write files as the Hub holds them: an image column, a class label column."""
    features = datasets.Features(img=datasets.Image(), label=datasets.ClassLabel(names=list(split.classes)))
    for name, count in counts.items():
        columns = dict(img=pictures(split, count), label=split.labels[:count].tolist())
        table = datasets.Dataset.from_dict(columns, features=features)
        table.to_parquet(str(folder / f"{name}-00000-of-00001.parquet"))


def test_parquet_folder(tmp_path: Path, digits: ImageSplit) -> None:
    parquet(tmp_path, digits, {"train": 30, "test": 10})
    splits = load_splits(str(tmp_path), (8, 8), progress=False)
    assert {name: len(split) for name, split in splits.items()} == {"train": 30, "test": 10}
    assert torch.equal(splits["train"].images, digits.images[:30])
    assert torch.equal(splits["test"].labels, digits.labels[:10])
    assert splits["train"].classes == digits.classes
    assert splits["train"].sha256() != splits["test"].sha256()
    assert splits["train"].take(torch.arange(10)).sha256() == splits["test"].sha256()


def test_validation_stands_in_for_a_missing_test_split(tmp_path: Path, digits: ImageSplit) -> None:
    parquet(tmp_path, digits, {"train": 12, "validation": 5})
    assert len(load_splits(str(tmp_path), (8, 8), progress=False)["test"]) == 5


def test_image_folder_of_any_mode_and_size(tmp_path: Path, digits: ImageSplit) -> None:
    for index, picture in enumerate(pictures(digits, 20)):
        folder = tmp_path / "train" / str(int(digits.labels[index]))
        folder.mkdir(parents=True, exist_ok=True)
        mode = ("RGB", "L", "RGBA", "P")[index % 4]
        picture.resize((8 + index, 30 - index)).convert(mode).save(folder / f"{index}.png")
    splits = load_splits(str(tmp_path), (16, 12), progress=False)
    assert list(splits) == ["train"]
    assert splits["train"].images.shape == (20, 3, 16, 12)
    assert splits["train"].classes == tuple("0123456789")
    counts = torch.bincount(digits.labels[:20], minlength=10)
    assert torch.equal(torch.bincount(splits["train"].labels, minlength=10), counts)


def test_batches_are_indexed_at_once(digits: ImageSplit) -> None:
    images, labels = digits.__getitems__([3, 1, 4])
    assert torch.equal(images[1], digits[1][0])
    assert labels.tolist() == [int(digits[index][1]) for index in (3, 1, 4)]


def test_holdout_is_random_disjoint_and_repeatable(digits: ImageSplit) -> None:
    numbered = ImageSplit(torch.arange(600).view(-1, 1, 1, 1), digits.labels, digits.classes)
    train, held = holdout(numbered, 0.1, seed=3)
    again = holdout(numbered, 0.1, seed=3)[1]
    other = holdout(numbered, 0.1, seed=4)[1]
    assert (len(train), len(held)) == (540, 60)
    assert sorted([*train.images.flatten().tolist(), *held.images.flatten().tolist()]) == list(range(600))
    assert torch.equal(held.images, again.images)
    assert not torch.equal(held.images, other.images)
    assert held.images.flatten().tolist() != sorted(held.images.flatten().tolist())
    with pytest.raises(UserError, match="leaves a part empty"):
        holdout(numbered.take(torch.arange(3)), 0.1, seed=0)


def test_real_cifar10(cifar10: Path) -> None:
    splits = load_splits(str(cifar10), (32, 32), progress=False)
    assert {name: tuple(split.images.shape) for name, split in splits.items()} == {
        "train": (50_000, 3, 32, 32),
        "test": (10_000, 3, 32, 32),
    }
    assert torch.bincount(splits["test"].labels).tolist() == [1000] * 10
    assert splits["train"].classes[:3] == ("airplane", "automobile", "bird")
    mean = splits["train"].images.float().mean((0, 2, 3)) / 255
    np.testing.assert_allclose(mean, (0.4914, 0.4822, 0.4465), atol=2e-3)


def test_what_does_not_fit_into_memory_is_decoded_when_needed(
    tmp_path: Path, digits: ImageSplit, monkeypatch: pytest.MonkeyPatch
) -> None:
    parquet(tmp_path, digits, {"train": 30, "test": 7})
    held = load_splits(str(tmp_path), (8, 8), test_view=(10, 12), progress=False)
    monkeypatch.setattr(sources, "MAX_BYTES", 100)
    stored = load_splits(str(tmp_path), (8, 8), test_view=(10, 12), progress=False)
    assert held["test"].take(torch.arange(2)).images.shape == (2, 3, 10, 12)
    for name, split in stored.items():
        assert isinstance(split, StoredSplit)
        assert (len(split), split.classes) == (len(held[name]), held[name].classes)
        loader = DataLoader(split, batch_sampler=[[3, 1], [5]], collate_fn=lambda batch: batch, num_workers=1)
        for (images, labels), rows in zip(loader, ([3, 1], [5]), strict=True):
            assert torch.equal(images, held[name].images[rows])
            assert torch.equal(labels, held[name].labels[rows])
    part = stored["train"].take(torch.tensor([4, 2, 9]))
    assert torch.equal(part.__getitems__([2, 0])[0], held["train"].images[[9, 4]])
    assert stored["train"].sha256() == load_splits(str(tmp_path), (8, 8), progress=False)["train"].sha256()
    assert len({stored["train"].sha256(), part.sha256(), stored["test"].sha256()}) == 3


def test_refusals(tmp_path: Path, digits: ImageSplit) -> None:
    with pytest.raises(UserError, match="There is no data folder"):
        load_splits(str(tmp_path / "absent"), (8, 8))
    with pytest.raises(UserError, match="neither parquet files nor images"):
        load_splits(str(tmp_path), (8, 8))
    with pytest.raises(UserError, match="neither a folder here nor a Hub data set"):
        load_splits("nobody/nothing", (8, 8))
    parquet(tmp_path, digits, {"test": 5})
    with pytest.raises(UserError, match="no 'train' split"):
        load_splits(str(tmp_path), (8, 8))
    parquet(tmp_path, digits, {"train": 5})
    broken = tmp_path / "broken" / "train" / "3"
    broken.mkdir(parents=True)
    (broken / "torn.png").write_bytes(b"no image")
    with pytest.raises(UserError, match=r"torn.png is not an image"):
        load_splits(str(tmp_path / "broken"), (8, 8))
    plain = tmp_path / "plain"
    plain.mkdir()
    datasets.Dataset.from_dict({"label": [1, 2]}).to_parquet(str(plain / "train.parquet"))
    with pytest.raises(UserError, match="no image column"):
        load_splits(str(plain), (8, 8))
    masked = tmp_path / "masked"
    masked.mkdir()
    features = datasets.Features(image=datasets.Image(), mask=datasets.Image())
    columns = {name: [Image.new("L", (8, 8))] for name in features}
    datasets.Dataset.from_dict(columns, features).to_parquet(str(masked / "train.parquet"))
    with pytest.raises(UserError, match=r"image, mask.* Images with masks need --task segmentation"):
        load_splits(str(masked), (8, 8))
