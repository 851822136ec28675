"""What every result has in common: JSON, tables, and where a result was taken."""

import codecs
import csv
import io
import json
import platform
import statistics
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any, Literal

from typing_extensions import TypedDict

from .records import Pattern
from .writing import write_whole

__all__ = [
    "NETWORKS",
    "SIGNIFICANT",
    "Surroundings",
    "cells_over_seeds",
    "csv_text",
    "markdown_table",
    "mean_and_deviation",
    "noise_table",
    "p_value_table",
    "read_text",
    "surroundings",
    "write_json",
]

NETWORKS: tuple[Literal["original"], Literal["adapted"]] = (
    "original",
    "adapted",
)  # whose figures an adaptation puts side by side
SIGNIFICANT = 0.05  # p-values below it are bold


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


def cells_over_seeds(found: Mapping[str, Any]) -> list[str]:
    """``88.10 ± 0.21`` of each figure in ``mean``, without ``std`` (None of a single seed) ``88.10``."""
    deviation = found["std"]
    return [f"{value:.2f}" + (f" ± {deviation[key]:.2f}" if deviation else "") for key, value in found["mean"].items()]


def p_value_table(model: str, comparisons: Sequence[Mapping[str, Any]], place: Sequence[str] = ("measure",)) -> str:
    """Differences of one model to others, a column each, with corrected p-values, bold where they are significant.

    Args:
        model: Its name.
        comparisons: What `layeract significance` computes: ``against``, ``difference``, ``p_holm`` and what says where.
        place: Keys of a comparison that tell the rows of the table apart.
    """
    others = list(dict.fromkeys(row["against"] for row in comparisons))
    cells: dict[tuple[str, ...], dict[str, str]] = {}
    for row in comparisons:
        p = "< 1e-3" if row["p_holm"] < 1e-3 else f"{row['p_holm']:.3f}"
        shown = f"{row['difference']:+.2f} ({p})"
        found = cells.setdefault(tuple(row[key] for key in place), {})
        found[row["against"]] = f"**{shown}**" if row["p_holm"] < SIGNIFICANT else shown
    rows = [[*where, *(found.get(other, "-") for other in others)] for where, found in cells.items()]
    named = dict.fromkeys(row["measure"] for row in comparisons if row.get("hypothesis"))
    corrected = sum(not row.get("hypothesis") for row in comparisons)
    hypotheses = f", those of the hypotheses ({'; '.join(named)}) as they are, the others" if named else ""
    return (
        f"By how many points `{model}` differs from the others, mean over seeds; in brackets p-values of paired tests"
        f"{hypotheses} after Holm's correction for all {corrected}, bold below {SIGNIFICANT}:\n\n"
        f"{markdown_table([*place, *(f'`{other}`' for other in others)], rows)}{_limit_of_wilcoxon(comparisons)}"
    )


def _limit_of_wilcoxon(comparisons: Sequence[Mapping[str, Any]]) -> str:
    """How small a p-value Wilcoxon's test can give with as many seeds, where it was taken."""
    pairs = [row["pairs"] for row in comparisons if row.get("test") == "Wilcoxon"]
    if not pairs:
        return ""
    few = min(pairs)
    return (
        f"\n\nWhere Wilcoxon's test was taken ({len(pairs)} of {len(comparisons)} comparisons), no p-value of {few} "
        f"seeds can be below {2 / 2**few:.2g}, however large the difference."
    )


def noise_table(noise: Mapping[str, Any]) -> str:
    """What noise does to a network before and after `layeract adapt`, as its result holds it; means over severities."""
    before, after = (noise["without"][name] for name in NETWORKS)
    rows = [["none", f"{before:.2f}", f"{after:.2f}", ""]]
    for corruption, found in noise["corruptions"].items():
        before, after = (statistics.mean(found[name]) for name in NETWORKS)
        rows.append([corruption, f"{before:.2f}", f"{after:.2f}", f"{after - before:+.2f}"])
    return markdown_table(["noise", *NETWORKS, "difference"], rows)


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
