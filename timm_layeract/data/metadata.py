"""Labels from a table beside the images: ``metadata.csv`` or ``metadata.jsonl`` with a column ``file_name``."""

import csv
import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from .._utils.files import read_text
from ..errors import UserError
from .folders import SPLITS, ImageFolder

__all__ = ["read_metadata"]

_FILES = ("metadata.csv", "metadata.jsonl")
_NAME = "file_name"


def read_metadata(folder: Path, label: str | None = None) -> ImageFolder | None:
    """The images that tables name, in the folder itself or in those of its splits; None where there is no table.

    Args:
        folder: Folder of the data set.
        label: Column of the labels; the only one beside ``file_name`` if None, or the one called label.

    Raises:
        UserError: A table that cannot be read or lacks a column; a file that is not there; a row without label; a class
            of another split that the training split lacks.
    """
    places = {"train": folder}
    if not _table(folder):
        places = {
            SPLITS.get(path.name.casefold(), path.name): path for path in sorted(folder.iterdir()) if path.is_dir()
        }
    rows = {split: _rows(place, path, label) for split, place in places.items() if (path := _table(place))}
    if not rows:
        return None
    first = "train" if "train" in rows else next(iter(rows))
    names = tuple(sorted({name for _, name in rows[first]}))
    for split, pairs in rows.items():
        unknown = next((name for _, name in pairs if name not in names), None)
        if unknown is not None:
            raise UserError(f"{folder}: the class {unknown!r} is in {split} and not in {first}.")
    files = {split: [(path, names.index(name)) for path, name in pairs] for split, pairs in rows.items()}
    return ImageFolder(files, names, Counter())


def _table(folder: Path) -> Path | None:
    return next((path for name in _FILES if (path := folder / name).is_file()), None)


def _rows(folder: Path, table: Path, label: str | None) -> list[tuple[Path, str]]:
    """Each image of a table and the name of its class."""
    records = _records(table)
    if not records:
        raise UserError(f"{table} holds no rows.")
    columns = list(records[0])
    if _NAME not in columns:
        raise UserError(f"{table} has no column {_NAME}; its columns are {', '.join(columns)}.")
    chosen = label or _label_column(table, [name for name in columns if name != _NAME])
    if chosen not in columns:
        raise UserError(f"{table} has no column {chosen}; its columns are {', '.join(columns)}.")
    found = []
    for number, record in enumerate(records, 1):
        path, value = folder / (record.get(_NAME) or ""), record.get(chosen)
        if not path.is_file():
            raise UserError(f"{table}, row {number}: there is no file {path}.")
        if not value:
            raise UserError(f"{table}, row {number}: {path.name} has no {chosen}.")
        found.append((path, value))
    return found


def _label_column(table: Path, columns: Sequence[str]) -> str:
    if len(columns) == 1:
        return columns[0]
    if not columns:
        raise UserError(f"{table} has no column of labels beside {_NAME}.")
    raise UserError(f"{table} has several columns that may be labels, {', '.join(columns)}: name one by --label.")


def _records(table: Path) -> list[dict[str, str]]:
    """Rows by column, whichever delimiter the spreadsheet chose."""
    try:
        text = read_text(table)
        if table.suffix == ".jsonl":
            return [{key: str(value) for key, value in json.loads(line).items()} for line in text.splitlines() if line]
        head = text.partition("\n")[0]
        delimiter = max(",;\t", key=head.count)
        return list(csv.DictReader(text.splitlines(), delimiter=delimiter))
    except (ValueError, AttributeError, csv.Error) as error:
        raise UserError(f"{table} cannot be read as a table ({error}).") from error
