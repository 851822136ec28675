"""Batches of a data set by lists of rows, whose worker processes live as long as the loader."""

from collections.abc import Iterator, Sequence
from typing import Any, Protocol, cast

from torch.utils.data import DataLoader, Dataset

__all__ = ["RowLoader"]


class Batched(Protocol):
    """What batches are read of."""

    def __len__(self) -> int:
        """Number of rows."""

    def __getitems__(self, indices: Sequence[int]) -> Any:
        """A batch."""


class RowLoader:
    """Reads batches of rows, again and again.

    Workers are started once: where processes are spawned (macOS, Windows), each imports everything anew, which takes
    longer than many an epoch.

    Args:
        data: Hands out whole batches.
        workers: Processes that read; 0 reads in this one.
        pin_memory: Put batches where a GPU copies from without waiting.
        keep: Keep the workers between calls, for data that is read again.
    """

    def __init__(self, data: Batched, workers: int, pin_memory: bool, keep: bool) -> None:
        self._batches: list[list[int]] = []
        self._loader = DataLoader(
            cast("Dataset[Any]", data),
            batch_sampler=_Rows(self._batches),
            collate_fn=_as_it_is,
            num_workers=workers,
            pin_memory=pin_memory,
            persistent_workers=keep and workers > 0,
        )

    def __call__(self, batches: list[list[int]]) -> Iterator[Any]:
        """The batches of these rows; one call at a time."""
        self._batches[:] = batches
        return iter(self._loader)


class _Rows:
    """A batch sampler over a list that changes."""

    def __init__(self, batches: list[list[int]]) -> None:
        self.batches = batches

    def __iter__(self) -> Iterator[list[int]]:
        return iter(list(self.batches))

    def __len__(self) -> int:
        return len(self.batches)


def _as_it_is(batch: Any) -> Any:
    return batch
