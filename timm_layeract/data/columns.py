"""Which columns of a data set hold the images and the labels, and what the labels are.

Nothing is guessed: several columns that may be meant are an error that names them.
"""

from dataclasses import dataclass
from typing import Any

import datasets
import torch
from torch import Tensor
from typing_extensions import TypedDict

from ..errors import UserError, did_you_mean
from .classes import map_classes

__all__ = [
    "Columns",
    "EncodedFile",
    "choose_column",
    "encoded_columns",
    "has_hidden_labels",
    "image_column",
    "read_labels",
]


class EncodedFile(TypedDict):
    """An encoded image in a row of a data set: its content or its path."""

    bytes: bytes | None
    path: str | None


@dataclass(frozen=True)
class Columns:
    """Names of columns where a data set has several that may be meant.

    Attributes:
        image: Column of the images; the only one if None.
        label: Column of the labels; the only one if None.
    """

    image: str | None = None
    label: str | None = None


def image_column(rows: datasets.Dataset, source: str, name: str | None = None) -> tuple[str, datasets.Dataset]:
    """The one column of images, or the one named, and the rows with encoded images in it.

    Raises:
        UserError: No such column; several, and none is named.
    """
    columns = encoded_columns(rows)
    hint = " Images with masks need --task segmentation." if "mask" in rows.features else ""
    chosen = choose_column(columns, rows, source, "image", name, hint)
    encoded = datasets.Image(decode=False)
    return chosen, rows.select_columns([chosen]).cast_column(chosen, encoded)


def encoded_columns(rows: datasets.Dataset) -> list[str]:
    """Columns that may hold images: of `datasets`' kind, bytes, or a struct of bytes and path."""
    return [
        column
        for column, feature in rows.features.items()
        if isinstance(feature, datasets.Image)
        or (isinstance(feature, dict) and "bytes" in feature)
        or getattr(feature, "dtype", "") in ("binary", "large_binary")
    ]


def choose_column(
    columns: list[str], rows: datasets.Dataset, source: str, what: str, name: str | None, hint: str = ""
) -> str:
    """The one of the columns that may be meant, or the one named.

    Raises:
        UserError: None may be meant, or several, and none is named; the one named is not there.
    """
    if name is not None:
        if name not in rows.features:
            raise UserError(f"{source} has no column {name!r}; {did_you_mean(name, rows.features)}")
        return name
    if not columns:
        raise UserError(f"{source} has no {what} column; its columns are {', '.join(rows.features)}.{hint}")
    if len(columns) > 1:
        raise UserError(
            f"{source} has several {what} columns, {', '.join(columns)}: name the one meant by --{what}.{hint}"
        )
    return columns[0]


def read_labels(
    rows: datasets.Dataset, source: str, name: str | None = None, known: tuple[str, ...] = ()
) -> tuple[Tensor, tuple[str, ...]]:
    """Labels and class names, checked.

    Args:
        rows: Rows of a split.
        source: Named in errors.
        name: Column of the labels; the one of class labels if None, else one called label or labels.
        known: Classes of the training split, whose order the labels then follow.

    Raises:
        UserError: No label column, or several; a row without label; labels outside their classes; a class that the
            training split lacks.
    """
    columns = [column for column, feature in rows.features.items() if isinstance(feature, datasets.ClassLabel)]
    columns = columns or [column for column in rows.features if column.casefold() in ("label", "labels")]
    column = choose_column(columns, rows, source, "label", name)
    values: list[Any] = list(rows[column])
    feature = rows.features[column]
    if None in values:
        raise UserError(f"{source}: row {values.index(None)} has no label in {column}; remove it.")
    if isinstance(feature, datasets.ClassLabel):
        named = tuple(feature.names)
        wrong = [value for value in values if not 0 <= value < len(named)]
        if wrong:
            raise UserError(f"{source} has labels from {min(values)} to {max(values)}, but {len(named)} classes.")
        return map_classes(torch.tensor(values, dtype=torch.int64), named, known, source)
    if any(isinstance(value, float | list | dict) for value in values):
        raise UserError(
            f"{source}: the column {column} holds {type(values[0]).__name__}, not names or numbers of classes."
        )
    distinct = sorted(set(values))
    labels = torch.tensor([distinct.index(value) for value in values], dtype=torch.int64)
    return map_classes(labels, tuple(map(str, distinct)), known, source)


def has_hidden_labels(rows: datasets.Dataset) -> bool:
    """Whether all labels of a split are -1, as those of ImageNet's test split: nothing can be measured on it."""
    columns = [name for name, feature in rows.features.items() if isinstance(feature, datasets.ClassLabel)]
    return any(len(rows) > 0 and set(rows[column][:]) == {-1} for column in columns)
