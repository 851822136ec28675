"""What every result has in common: JSON, tables, and where a result was taken."""

import codecs
import csv
import io
import json
import platform
import statistics
from collections.abc import Iterable, Sequence
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any

from typing_extensions import TypedDict

from .records import Pattern
from .writing import write_whole

__all__ = [
    "Surroundings",
    "csv_text",
    "markdown_table",
    "mean_and_deviation",
    "read_text",
    "surroundings",
    "write_json",
]


def read_text(path: Path) -> str:
    """A text that people wrote, in UTF-8, or in UTF-16 where its first bytes say so; without the mark that says it.

    Raises:
        UnicodeDecodeError: It is neither.
    """
    content = path.read_bytes()
    marked = content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    return content.decode("utf-16" if marked else "utf-8-sig")


def write_json(path: Path, value: Any) -> None:
    """Write a JSON file, whole or not at all."""
    write_whole(path, json.dumps(value, indent=2) + "\n")


def csv_text(rows: Iterable[Iterable[object]], end: str = "\n") -> str:
    """Rows as CSV, each with that end."""
    text = io.StringIO(newline="")
    csv.writer(text, lineterminator=end).writerows(rows)
    return text.getvalue()


def markdown_table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def mean_and_deviation(values: Sequence[float]) -> str:
    """``88.10 ± 0.21``; without a deviation where there is one value."""
    return f"{statistics.mean(values):.2f}" + (f" ± {statistics.stdev(values):.2f}" if len(values) > 1 else "")


class Surroundings(TypedDict):
    """Where a result was taken: device, date, versions of Python and packages."""

    device: str
    date: Annotated[str, Pattern(r"\d{4}-\d{2}-\d{2}")]
    versions: dict[str, str]


def surroundings(device: object, packages: Iterable[str]) -> Surroundings:
    """What a result says of where it was taken: ``device``, ``date``, ``versions`` of Python and these packages."""
    return {
        "device": str(device),
        "date": datetime.now(timezone.utc).date().isoformat(),
        "versions": {"python": platform.python_version(), **{name: version(name) for name in packages}},
    }
