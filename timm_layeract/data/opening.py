"""Opening a data set without decoding an image: on the Hub, parquet files, what `datasets` saved, folders of images."""

import glob
import importlib.util
import re
from collections.abc import Callable, Collection, Iterable
from pathlib import Path

import datasets

from ..errors import UserError, did_you_mean
from .columns import Columns, has_hidden_labels
from .folders import SPLITS, walk_images
from .metadata import read_metadata

__all__ = ["hidden_labels", "is_data_set", "open_data_set", "split_roles", "test_split", "training_roles"]

SAVED = "dataset_dict.json"  # in what `DatasetDict.save_to_disk` writes
SAVED_ONE = "state.json"  # in what `Dataset.save_to_disk` writes, one split
TEST_NAMES = ("test", "validation", "valid", "val")  # the first that a data set has is its test split


def is_data_set(folder: Path) -> bool:
    """Whether a folder holds parquet files, or what `datasets` saved."""
    return bool(_parquet_files(folder)) or any((folder / name).is_file() for name in (SAVED, SAVED_ONE))


def _parquet_files(folder: Path) -> list[Path]:
    """Parquet files in a folder, or in the folder ``data`` of a copy of a Hub data set."""
    return sorted(folder.glob("*.parquet")) or sorted(folder.glob("data/*.parquet"))


def open_data_set(
    source: str, labelled: bool = True, columns: Columns | None = None, report: Callable[[str], None] | None = None
) -> datasets.DatasetDict:
    """Open a folder or a Hub data set without decoding any image.

    Args:
        source: As for `load_splits`.
        labelled: The images of a folder lie in class folders.
        columns: As for `load_splits`.
        report: Called with a line on what was found in a folder of images.
    """
    folder = Path(source)
    if (folder / SAVED).is_file():
        return datasets.load_from_disk(source)
    if (folder / SAVED_ONE).is_file():
        return datasets.DatasetDict(train=datasets.load_from_disk(source))
    if folder.is_dir():
        files: dict[str, list[str]] = {}
        for path in _parquet_files(folder):
            files.setdefault(_split_of_file(path.name), []).append(glob.escape(str(path)))
        if files:
            try:
                # One by one: together, all splits are given the class names of one.
                loaded = {
                    name: datasets.load_dataset("parquet", data_files={name: each}) for name, each in files.items()
                }
                return datasets.DatasetDict({name: each[name] for name, each in loaded.items()})
            except (ValueError, datasets.exceptions.DatasetGenerationError) as error:  # no rows; no parquet
                raise UserError(
                    f"The parquet files in {source} cannot be read: {str(error).splitlines()[0][:150]}"
                ) from error
            except OSError as error:
                raise UserError(
                    f"{source} cannot be read into the cache of data sets ({error}); set HF_HOME to a folder that can "
                    "be written."
                ) from error
        return _open_images(folder, labelled, columns, report)
    return _open_of_hub(source)


def _open_of_hub(source: str) -> datasets.DatasetDict:
    """A data set on the Hub, ``ORG/NAME`` or, where it has several configurations, ``ORG/NAME:CONFIG``."""
    name, _, config = source.partition(":")
    if not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", name) or name.startswith(".") or source.endswith(":"):
        raise UserError(
            f"There is no data folder {source}; give a folder, or a Hub data set id such as uoft-cs/cifar10."
        )
    if source.isidentifier() and importlib.util.find_spec(f"datasets.packaged_modules.{source}"):
        raise UserError(f"{source} is a format that datasets reads, and no data set; give the folder of the files.")
    try:
        return datasets.load_dataset(name, config or None)
    except (OSError, ValueError, RuntimeError, datasets.exceptions.DatasetsError) as error:
        known = _configurations(name) if isinstance(error, ValueError) else []
        if not config and len(known) > 1:
            raise UserError(
                f"{source} has several configurations, {', '.join(known[:10])}: name one as {name}:{known[0]}."
            ) from error
        if config and known and config not in known:
            raise UserError(f"{name} has no configuration {config!r}; {did_you_mean(config, known)}") from error
        reason = (str(error).splitlines() or [type(error).__name__])[0][:150]
        raise UserError(f"{source} is neither a folder here nor a Hub data set that can be read: {reason}") from error


def _configurations(name: str) -> list[str]:
    """Those of a data set on the Hub; none if it cannot be reached."""
    try:
        return list(datasets.get_dataset_config_names(name))
    except (OSError, ValueError, RuntimeError, datasets.exceptions.DatasetsError):
        return []


def _split_of_file(name: str) -> str:
    """``train-00000-of-00001.parquet`` -> ``train``, whatever its case."""
    first = re.split(r"[-._]", name)[0]
    return SPLITS.get(first.casefold(), first)


def _open_images(
    folder: Path, labelled: bool, columns: Columns | None, report: Callable[[str], None] | None
) -> datasets.DatasetDict:
    """The images of a folder, by its class folders or its metadata file, without a cache."""
    found = read_metadata(folder, (columns or Columns()).label) if labelled else None
    found = found or walk_images(folder, labelled)
    if report is not None:
        report(f"{folder}: {found.describe()}")
    kinds = {
        "image": datasets.Image(),
        **({"label": datasets.ClassLabel(names=list(found.classes))} if labelled else {}),
    }
    return datasets.DatasetDict(
        {
            split: datasets.Dataset.from_dict(
                {
                    "image": [str(path) for path, _ in files],
                    **({"label": [label for _, label in files]} if labelled else {}),
                },
                features=datasets.Features(kinds),
            )
            for split, files in found.files.items()
        }
    )


def test_split(loaded: datasets.DatasetDict, source: str) -> str:
    """Name of the split to test on: test, else validation, else the only one."""
    only = next(iter(loaded)) if len(loaded) == 1 else None
    hidden = hidden_labels(loaded)
    name = split_roles(name for name in loaded if name not in hidden).get("test", only)
    if name is None:
        raise UserError(f"{source} has no test split, only {', '.join(loaded)}; name the test files test*.")
    return name


def split_roles(names: Iterable[str]) -> dict[str, str]:
    """What each split of a data set serves for: ``train``, ``test``, and ``validation`` where that is not tested on.

    The first there is of test and validation is tested on. A validation split beside it chooses the epoch, in place of
    training samples held out.
    """
    found = [name for name in TEST_NAMES if name in (names := list(names))]
    roles = {"train": "train"} if "train" in names else {}
    return {**roles, **dict(zip(("test", "validation"), found, strict=False))}


def training_roles(
    names: Collection[str],
    source: str,
    hidden: Collection[str] = (),
    report: Callable[[str], None] | None = None,
) -> dict[str, str]:
    """`split_roles` of a data set to train on; splits with `hidden` labels count as none.

    Args:
        names: Names of its splits.
        source: Named in errors.
        hidden: Those whose labels are hidden.
        report: Called with a line where another split than test is tested on.

    Raises:
        UserError: It has no training split.
    """
    # a training split without labels is a fault that is named where they are read
    roles = split_roles(name for name in names if name == "train" or name not in hidden)
    if "train" not in roles:
        raise UserError(f"{source} has no 'train' split, only {', '.join(names)}; name the training files train*.")
    if report is not None and roles.get("test", "test") != "test":
        why = "; the labels of test are hidden" if "test" in hidden else ""
        report(f"{source}: the {roles['test']} split is tested on{why}")
    return roles


def hidden_labels(loaded: datasets.DatasetDict) -> list[str]:
    """Names of the splits whose labels are hidden."""
    return [name for name, rows in loaded.items() if has_hidden_labels(rows)]
