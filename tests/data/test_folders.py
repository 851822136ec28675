"""Folders, columns and classes are read as their owners mean them, or refused in one line."""

import io
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import timm
import torch
from PIL import Image

from scripts.data_table import PAGE, render
from tests.data.folder_cases import CASES, fill
from timm_layeract.data.classes import check_classes, map_classes
from timm_layeract.data.columns import Columns
from timm_layeract.data.opening import open_data_set
from timm_layeract.data.sources import load_splits
from timm_layeract.errors import UserError
from timm_layeract.training.options import Execution
from timm_layeract.training.recipe import Recipe
from timm_layeract.training.run import train
from timm_layeract.training.start import Start


def place_of(root: Path) -> Path:
    return root / "data" if (root / "data").is_dir() else root


@pytest.mark.parametrize("name", CASES)
def test_a_folder(tmp_path: Path, name: str) -> None:
    case, said = CASES[name], []
    case.make(tmp_path)
    place = place_of(tmp_path)
    if isinstance(case.read, str):
        with pytest.raises(UserError) as refused:
            load_splits(str(place), (8, 8), progress=False)
        assert case.read in str(refused.value)
        assert "\n" not in str(refused.value)
        return
    loaded = open_data_set(str(place), report=said.append)
    assert {split: len(rows) for split, rows in loaded.items()} == case.read
    names = tuple(next(iter(loaded.values())).features["label"].names)
    assert names == case.classes
    for rows in loaded.values():
        labels = {names[row["label"]] for row in rows}
        assert labels == set(names)
    (line,) = said
    assert all(f"{split} {count}" in line for split, count in case.read.items())
    assert all(reason in line for reason in case.left_out)
    assert ("left out" in line) == bool(case.left_out)


def test_labels_are_those_of_the_folders(tmp_path: Path) -> None:
    for number, name in enumerate("cab"):
        for index in range(3):
            path = tmp_path / "train" / name / "deep" / f"{index}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.full((8, 8, 3), 10 * (number + 1), np.uint8)).save(path)
    split = load_splits(str(tmp_path), (8, 8), progress=False)["train"]
    assert split.classes == ("a", "b", "c")
    seen = {split.classes[label]: int(pixels.max()) for pixels, label in zip(split.images, split.labels, strict=True)}
    assert seen == {"c": 10, "a": 20, "b": 30}


def test_the_page_is_current() -> None:
    assert PAGE.read_text() == render(), "run python scripts/data_table.py"


def encoded(value: int) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(np.full((8, 8, 3), value, np.uint8)).save(stream, "PNG")
    return stream.getvalue()


def parquet(folder: Path, split: str, columns: dict[str, list[Any]], **kinds: Any) -> None:
    folder.mkdir(exist_ok=True)
    features = datasets.Features({**datasets.Dataset.from_dict(columns).features, **kinds}) if kinds else None
    datasets.Dataset.from_dict(columns, features=features).to_parquet(folder / f"{split}.parquet")


LABEL = datasets.ClassLabel(names=["cat", "dog"])


def test_columns_that_may_be_meant_are_named(tmp_path: Path) -> None:
    rows = {"image": [encoded(1)] * 4, "depth": [encoded(9)] * 4, "scanner": [0, 0, 0, 1], "label": [0, 1, 0, 1]}
    pictures = {"image": datasets.Image(), "depth": datasets.Image()}
    parquet(tmp_path / "d", "train", rows, **pictures, scanner=datasets.ClassLabel(names=["x", "y"]), label=LABEL)
    source = str(tmp_path / "d")
    for columns, words in (
        (None, "several image columns, image, depth: name the one meant by --image"),
        (Columns(image="image"), "several label columns, scanner, label: name the one meant by --label"),
        (Columns(image="imag"), "no column 'imag'; did you mean 'image'"),
    ):
        with pytest.raises(UserError, match=words):
            load_splits(source, (8, 8), progress=False, columns=columns)
    train = load_splits(source, (8, 8), progress=False, columns=Columns("depth", "label"))["train"]
    assert (train.classes, train.labels.tolist(), int(train.images.max())) == (("cat", "dog"), [0, 1, 0, 1], 9)


@pytest.mark.parametrize("kind", ["bytes", "struct"])
@pytest.mark.parametrize("labels", [["dog", "cat", "dog"], [7, 3, 7]])
def test_what_pandas_writes(tmp_path: Path, kind: str, labels: list[Any]) -> None:
    images = [encoded(value) for value in (1, 2, 3)]
    column: list[Any] = images if kind == "bytes" else [{"bytes": each, "path": None} for each in images]
    parquet(tmp_path / "d", "train", {"img": column, "label": labels})
    parquet(tmp_path / "d", "test", {"img": column[:1], "label": labels[:1]})
    splits = load_splits(str(tmp_path / "d"), (8, 8), progress=False)
    assert splits["train"].classes == splits["test"].classes == tuple(map(str, sorted(set(labels))))
    assert splits["train"].labels.tolist() == [1, 0, 1]
    assert splits["test"].labels.tolist() == [1]
    assert splits["train"].images.amax((1, 2, 3)).tolist() == [1, 2, 3]


def test_test_labels_follow_the_training_order(tmp_path: Path) -> None:
    images = [encoded(1)] * 2
    parquet(tmp_path / "d", "train", {"image": images, "label": [0, 1]}, image=datasets.Image(), label=LABEL)
    turned = datasets.ClassLabel(names=["dog", "cat"])
    parquet(tmp_path / "d", "test", {"image": images, "label": [0, 0]}, image=datasets.Image(), label=turned)
    splits = load_splits(str(tmp_path / "d"), (8, 8), progress=False)
    assert splits["test"].classes == ("cat", "dog")
    assert splits["test"].labels.tolist() == [1, 1]  # dogs
    other = datasets.ClassLabel(names=["dog", "Cat"])
    parquet(tmp_path / "e", "train", {"image": images, "label": [0, 1]}, image=datasets.Image(), label=LABEL)
    parquet(tmp_path / "e", "test", {"image": images, "label": [0, 1]}, image=datasets.Image(), label=other)
    with pytest.raises(UserError, match="e test has the class 'Cat', which is none of cat, dog"):
        load_splits(str(tmp_path / "e"), (8, 8), progress=False)


def test_hidden_labels_and_missing_ones(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    images, kinds = [encoded(1)] * 3, {"image": datasets.Image(), "label": LABEL}
    parquet(tmp_path / "d", "train", {"image": images, "label": [0, 1, 0]}, **kinds)
    parquet(tmp_path / "d", "validation", {"image": images, "label": [1, 1, 0]}, **kinds)
    parquet(tmp_path / "d", "test", {"image": images, "label": [-1, -1, -1]}, **kinds)
    splits = load_splits(str(tmp_path / "d"), (8, 8))
    assert splits["test"].labels.tolist() == [1, 1, 0]
    assert "the validation split is tested on; the labels of test are hidden" in capsys.readouterr().out
    parquet(tmp_path / "d", "train", {"image": images, "label": [0, None, 0]}, **kinds)
    with pytest.raises(UserError, match="row 1 has no label in label; remove it"):
        load_splits(str(tmp_path / "d"), (8, 8), progress=False)
    parquet(tmp_path / "d", "train", {"image": [images[0], None, images[0]], "label": [0, 1, 0]}, **kinds)
    with pytest.raises(UserError, match="row 1 has no image; remove it"):
        load_splits(str(tmp_path / "d"), (8, 8), progress=False)


def test_a_validation_split_beside_the_test_split_chooses_the_epoch(tmp_path: Path) -> None:
    """In place of training images held out; the labels of all splits are those of the training split."""
    fill(tmp_path / "data", "train/a", "train/b", "val/a", "test/b", count=6)
    splits = load_splits(str(tmp_path / "data"), (8, 8), progress=False)
    assert {role: (len(split), split.classes) for role, split in splits.items()} == {
        "train": (12, ("a", "b")),
        "test": (6, ("a", "b")),
        "validation": (6, ("a", "b")),
    }
    assert {*splits["validation"].labels.tolist()} == {0}
    assert {*splits["test"].labels.tolist()} == {1}
    recipe = Recipe(epochs=1, batch_size=4, lr=0.01)
    result = train("lenet5", recipe, str(tmp_path / "data"), tmp_path / "run", execution=Execution(progress=False))
    data = result["data"]
    assert (data["train_images"], data["validation_images"], data["test_images"]) == (12, 6, 6)
    assert (
        data["validation_sha256"]
        == load_splits(str(tmp_path / "data"), (28, 28), progress=False)["validation"].sha256()
    )


def test_a_parquet_folder_with_brackets(tmp_path: Path) -> None:
    kinds = {"image": datasets.Image(), "label": LABEL}
    parquet(tmp_path / "run [1]", "train", {"image": [encoded(1)] * 2, "label": [0, 1]}, **kinds)
    assert len(load_splits(str(tmp_path / "run [1]"), (8, 8), progress=False)["train"]) == 2


def test_classes_in_another_order_are_mapped_by_name() -> None:
    labels, classes = map_classes(torch.tensor([0, 2, 1]), ("c", "b", "a"), ("a", "b", "c", "d"), "x")
    assert (labels.tolist(), classes) == ([2, 0, 1], ("a", "b", "c", "d"))
    labels, _ = map_classes(torch.tensor([1]), ("unknown", "b"), ("a", "b"), "x")  # which has no image
    assert labels.tolist() == [1]
    with pytest.raises(UserError, match="x has the class 'unknown', which is none of a, b"):
        map_classes(torch.tensor([0, 1]), ("unknown", "b"), ("a", "b"), "x")


def test_fine_tuning_keeps_a_head_only_where_its_classes_are_the_datas(tmp_path: Path) -> None:
    model = timm.create_model("resnet20_lasilu", pretrained=True)
    names = model.pretrained_cfg["label_names"]
    start = Start("resnet20_lasilu.cifar10", pretrained=True)
    recipe = Recipe(epochs=1)

    class Named:
        classes = tuple(names)

    assert torch.equal(start.create(recipe, Named()).fc.weight, model.fc.weight)  # type: ignore[arg-type]
    Named.classes = tuple(reversed(names))
    fresh = start.create(recipe, Named())  # type: ignore[arg-type]
    assert not torch.equal(fresh.fc.weight, model.fc.weight)
    assert torch.equal(fresh.conv1.weight, model.conv1.weight)
    with pytest.raises(UserError, match="Class 0 is 'truck' in the data and 'airplane' in the network"):
        check_classes(Named.classes, model)


def test_images_without_labels_may_lie_anywhere(tmp_path: Path) -> None:
    fill(tmp_path, ".", "deep/er")
    assert len(load_splits(str(tmp_path), (8, 8), progress=False, labelled=False)["train"]) == 8


def on_the_hub(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let ``org/name`` be a folder, which `datasets` reads as it reads a repository."""
    head = ["---", "configs:"]
    for config, count in (("large", 8), ("small", 4)):
        (root / config).mkdir(parents=True)
        features = datasets.Features(image=datasets.Image(), label=datasets.ClassLabel(names=["a", "b"]))
        columns = {"image": [Image.fromarray(np.zeros((8, 8, 3), np.uint8))] * count, "label": [0, 1] * (count // 2)}
        datasets.Dataset.from_dict(columns, features=features).to_parquet(root / config / "train-0.parquet")
        head += [f"- config_name: {config}", "  data_files:", "  - split: train", f"    path: {config}/train-*"]
    (root / "README.md").write_text("\n".join([*head, "---", ""]))
    for name in ("load_dataset", "get_dataset_config_names"):
        original = getattr(datasets, name)

        def redirected(source: str, *more: Any, _original: Any = original, **options: Any) -> Any:
            return _original(str(root) if source == "org/name" else source, *more, **options)

        monkeypatch.setattr(datasets, name, redirected)


def test_configurations_of_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    on_the_hub(tmp_path / "sim", monkeypatch)
    for config, count in (("small", 4), ("large", 8)):
        assert len(load_splits(f"org/name:{config}", (8, 8), progress=False)["train"]) == count
    for source, says in (
        ("org/name", "has several configurations, large, small: name one as org/name:large"),
        ("org/name:smal", "org/name has no configuration 'smal'; did you mean 'small'"),
        ("org/name:", "There is no data folder org/name:"),
    ):
        with pytest.raises(UserError, match=says) as refused:
            load_splits(source, (8, 8), progress=False)
        assert "\n" not in str(refused.value)


def test_data_sets_that_are_programs_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "sim").mkdir()
    (tmp_path / "sim" / "sim.py").write_text("import datasets")
    original = datasets.load_dataset
    monkeypatch.setattr(datasets, "load_dataset", lambda _, *more: original(str(tmp_path / "sim"), *more))
    with pytest.raises(UserError, match="Dataset scripts are no longer supported"):
        load_splits("org/name", (8, 8), progress=False)
