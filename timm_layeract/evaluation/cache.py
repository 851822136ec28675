"""Results that are known already, so that a run that was stopped, or repeated with one more model, goes on.

A file of JSON lines, one written after each set. Imports the standard library only.
"""

import json
from pathlib import Path
from typing import Any

__all__ = ["ResultCache"]


class ResultCache:
    """Correct answers per (network, set), and the hash of each set that can be generated again.

    Args:
        path: File of JSON lines; made with its folder at the first result.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._correct: dict[tuple[str, str], int] = {}
        self._sets: dict[str, str] = {}
        lines = path.read_text().split("\n") if path.exists() else []
        if lines and lines[-1]:  # the run was stopped while it wrote this line
            path.write_text("".join(line + "\n" for line in lines[:-1]))
        for line in lines[:-1]:
            self._remember(json.loads(line))

    def correct(self, network: str, images: str | None) -> int | None:
        """Correct answers of a network (by hash) on a set (by hash), None if unknown."""
        return None if images is None else self._correct.get((network, images))

    def set_hash(self, recipe: str | None) -> str | None:
        """Hash of the set that a recipe generates, None if unknown."""
        return None if recipe is None else self._sets.get(recipe)

    def put_correct(self, network: str, images: str, correct: int) -> None:
        """Remember a result."""
        self._write({"network": network, "set": images, "correct": correct})

    def put_set(self, recipe: str | None, images: str) -> None:
        """Remember a set's hash, unless it has no recipe."""
        if recipe is not None and recipe not in self._sets:
            self._write({"recipe": recipe, "set": images})

    def _write(self, line: dict[str, Any]) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with self._path.open("a") as file:
            file.write(json.dumps(line) + "\n")
        self._remember(line)

    def _remember(self, line: dict[str, Any]) -> None:
        if "recipe" in line:
            self._sets[line["recipe"]] = line["set"]
        else:
            self._correct[line["network"], line["set"]] = line["correct"]
