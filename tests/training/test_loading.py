"""Worker processes are started once for data that is read again."""

import os
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from timm_layeract.training.loading import RowLoader


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
