"""CONTRIBUTING.md's table of where things are: it knows every file, and no file imports from below itself in it."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import timm_layeract

PACKAGE = Path(timm_layeract.__file__).parent
TABLE = PACKAGE.parent / "CONTRIBUTING.md"


@pytest.fixture(scope="module")
def rank() -> dict[str, int]:
    """Top-level module or folder -> its row."""
    rows = [line.split("|")[1] for line in TABLE.read_text().splitlines() if line.startswith("| `")]
    names = {name: row for row, cell in enumerate(rows) for name in re.findall(r"`(\w+)(?:\.py|/)`", cell)}
    assert len(names) > 20
    return names


def imported(path: Path) -> Iterator[str]:
    """The package's top-level modules that a file imports when it is imported itself."""
    folder = path.relative_to(PACKAGE).parent.parts
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.ImportFrom) and node.level:
            base = [*folder[: len(folder) - node.level + 1], *(node.module or "").split(".")]
            found = [part for part in base if part]
            yield from found[:1] or [alias.name for alias in node.names]


def test_every_file_is_in_the_table(rank: dict[str, int]) -> None:
    files = {path.stem for path in PACKAGE.glob("*.py")} | {path.parent.name for path in PACKAGE.glob("*/__init__.py")}
    assert files - {"__init__"} <= set(rank)
    assert all((PACKAGE / name).exists() or (PACKAGE / f"{name}.py").exists() for name in rank)


def test_imports_follow_the_table(rank: dict[str, int]) -> None:
    seen = 0
    for path in PACKAGE.rglob("*.py"):
        own = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
        if own == "__init__":
            continue
        for name in imported(path):
            seen += 1
            assert rank[name] <= rank[own], f"{path.relative_to(PACKAGE)} imports {name}, which stands below it"
    assert seen > 300
