"""Results that are known already, so that a run that was stopped, or repeated with one more model, goes on.

A file of JSON lines, one written after each set.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from .._utils.writing import write_whole
from .accuracy import Score

__all__ = ["ResultCache"]


class ResultCache:
    """Scores per (network, set), and the hash of each set that can be generated again.

    Args:
        path: File of JSON lines; made with its folder at the first result.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._scores: dict[tuple[str, str], Score] = {}
        self._sets: dict[str, str] = {}
        for line in self._lines():
            self._remember(json.loads(line))

    def score(self, network: str, images: str | None) -> Score | None:
        """Score of a network (by hash) on a set (by hash), None if unknown."""
        return None if images is None else self._scores.get((network, images))

    def set_hash(self, recipe: str | None) -> str | None:
        """Hash of the set that a recipe generates, None if unknown."""
        return None if recipe is None else self._sets.get(recipe)

    def put_score(self, network: str, images: str, score: Score) -> None:
        """Remember a result."""
        self._write({"network": network, "set": images, **asdict(score)})

    def put_set(self, recipe: str | None, images: str) -> None:
        """Remember a set's hash, unless it has no recipe."""
        if recipe is not None and recipe not in self._sets:
            self._write({"recipe": recipe, "set": images})

    def _write(self, line: Mapping[str, object]) -> None:
        # as they are now: another process may measure into this folder too
        write_whole(self._path, "".join(f"{each}\n" for each in (*self._lines(), json.dumps(line))))
        self._remember(line)

    def _lines(self) -> list[str]:
        """The complete lines; an earlier version may have been stopped while writing the last one."""
        return self._path.read_text().split("\n")[:-1] if self._path.exists() else []

    def _remember(self, line: Any) -> None:
        if "recipe" in line:
            self._sets[line["recipe"]] = line["set"]
        elif "calibration_error" in line:  # without it, of a version that did not measure it: measured again
            self._scores[line["network"], line["set"]] = Score(line["correct"], line["calibration_error"])
