"""Worker processes are started once for data that is read again."""

import json
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from timm_layeract.data import sources
from timm_layeract.errors import UserError
from timm_layeract.training import run
from timm_layeract.training.loading import RowLoader
from timm_layeract.training.options import Execution
from timm_layeract.training.recipe import Recipe


class Readers(torch.utils.data.Dataset[tuple[Tensor, int]]):
    """Rows with the process that read them."""

    def __len__(self) -> int:
        return 12

    def __getitems__(self, rows: Sequence[int]) -> tuple[Tensor, int]:
        return torch.tensor(rows), os.getpid()


@pytest.mark.parametrize("workers", [0, 2])
def test_workers_are_kept(workers: int) -> None:
    loader = RowLoader(Readers(), workers, pin_memory=False, keep=True)
    readers = []
    for batches in ([[0, 1], [5, 2], [3, 4]], [[11], [10, 9]], []):
        found = list(loader(batches))
        assert [rows.tolist() for rows, _ in found] == batches
        readers.append({process for _, process in found})
    assert readers[1] <= readers[0]
    assert len(readers[0]) == max(1, workers)
    assert (os.getpid() in readers[0]) == (workers == 0)
    next(loader([[1], [2], [3]]))  # not read to its end
    assert [rows.tolist() for rows, _ in loader([[7]])] == [[7]]


class Torn(torch.utils.data.Dataset[Tensor]):
    """Rows of which some cannot be read."""

    def __init__(self, *torn: int) -> None:
        self.torn = torn

    def __len__(self) -> int:
        return 6

    def __getitems__(self, rows: Sequence[int]) -> Tensor:
        for row in rows:
            if row in self.torn:
                raise UserError(f"Image {row}.png cannot be read (truncated).")
        return torch.tensor(rows)


@pytest.mark.parametrize("workers", [0, 2])
def test_what_cannot_be_read_is_one_line(workers: int) -> None:
    loader = RowLoader(Torn(3), workers, pin_memory=False, keep=True)
    for _ in range(2):
        batches = loader([[0, 1], [2, 3], [4, 5]])
        assert next(batches).tolist() == [0, 1]
        with pytest.raises(UserError) as refused:
            next(batches)
        assert str(refused.value) == "Image 3.png cannot be read (truncated)."
    assert [batch.tolist() for batch in loader([[5]])] == [[5]]


@pytest.mark.parametrize("workers", [0, 2])
def test_the_next_row_is_taken_where_that_is_wanted(workers: int) -> None:
    said: list[str] = []
    loader = RowLoader(Torn(3, 5), workers, pin_memory=False, keep=True, skipped=said.append)
    for _ in range(2):
        assert [batch.tolist() for batch in loader([[0, 1], [2, 3], [4, 5]])] == [[0, 1], [2, 4], [4, 0]]
    assert said == [f"Left out: Image {row}.png cannot be read (truncated)." for row in (3, 5)]
    with pytest.raises(UserError, match=r"Nothing of the data can be read\. Left out: Image 2"):
        list(RowLoader(Torn(*range(6)), workers, pin_memory=False, keep=False, skipped=said.append)([[2]]))


@pytest.mark.parametrize("workers", [0, 2])
def test_a_file_that_breaks_during_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, workers: int) -> None:
    monkeypatch.setattr(sources, "MAX_BYTES", 1)
    for label in ("dark", "light"):
        (tmp_path / "data" / label).mkdir(parents=True)
        for number in range(12):
            noise = np.random.default_rng(number).integers(0, 99, (16, 16, 3)) + 150 * (label == "light")
            Image.fromarray(noise.astype(np.uint8)).save(tmp_path / "data" / label / f"{number}.png")
    torn = tmp_path / "data" / "dark" / "5.png"
    recipe = Recipe(epochs=3, batch_size=5, image_size=(16, 16), validation_fraction=0.2, lr=0.01, padding=1)
    said: list[str] = []

    def tear(line: str) -> None:
        said.append(line)
        torn.write_bytes(torn.read_bytes()[:300])

    def train(**options: object) -> dict:
        execution = Execution(progress=False, workers=workers, **options)  # type: ignore[arg-type]
        return run.train("resnet20", recipe, str(tmp_path / "data"), tmp_path / "run", execution=execution)

    with pytest.raises(UserError, match=r"image .*dark/5\.png cannot be read") as refused:
        train(report=tear)
    assert "\n" not in str(refused.value)
    with pytest.raises(UserError, match=r"another run \(data\.train_sha256"):
        train(resume=True, report=said.append)
    result = train(resume=True, skip_unreadable=True, report=said.append)
    assert sum("Left out" in line for line in said) == 1
    assert sum("  epoch " in line for line in said) == 3
    assert json.loads((tmp_path / "run" / "result.json").read_text()) == result
