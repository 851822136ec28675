"""Batches of a data set by lists of rows, whose worker processes live as long as the loader."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple, Protocol, cast

from torch.utils.data import DataLoader, Dataset

from ..data.splits import Drawn
from ..errors import UserError

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
        skipped: Called with a line for each row that cannot be read, the one after it being taken in its place; None
            stops there.
    """

    def __init__(
        self,
        data: Batched,
        workers: int,
        pin_memory: bool,
        keep: bool,
        skipped: Callable[[str], None] | None = None,
    ) -> None:
        self._batches: list[list[int]] = []
        self._skipped, self._said = skipped, set[str]()
        self._loader = DataLoader(
            cast("Dataset[Any]", _Caught(data, skipped is not None)),
            batch_sampler=_Rows(self._batches),
            collate_fn=_as_it_is,
            num_workers=workers,
            pin_memory=pin_memory,
            persistent_workers=keep and workers > 0,
        )

    def __call__(self, batches: list[list[int]]) -> Iterator[Any]:
        """The batches of these rows; one call at a time.

        Raises:
            UserError: A row that cannot be read, in the words of whoever read it, not of the worker.
        """
        self._batches[:] = batches
        return self._told(iter(self._loader))

    def _told(self, read: Iterator["_Read"]) -> Iterator[Any]:
        for found in read:
            for line in found.skipped:
                if self._skipped is not None and line not in self._said:
                    self._skipped(line)
                self._said.add(line)
            if found.error is not None:
                raise found.error
            yield found.batch


class _Read(NamedTuple):
    """Outcome of reading a batch; torch would put a worker's whole traceback into the message of its exception."""

    batch: Any = None
    error: UserError | None = None
    skipped: tuple[str, ...] = ()


class _Caught:
    """Data that returns errors instead of raising them, and, if allowed, the next readable row."""

    def __init__(self, data: Batched, skip: bool) -> None:
        self.data, self.skip = data, skip

    def __len__(self) -> int:
        return len(self.data)

    def __getitems__(self, rows: Sequence[int]) -> _Read:
        try:
            return _Read(self.data.__getitems__(rows))
        except UserError as error:
            if not self.skip:
                return _Read(error=error)
        skipped: list[str] = []
        try:
            readable = [self._readable(row, skipped) for row in rows]
            return _Read(self.data.__getitems__(readable), skipped=tuple(skipped))
        except UserError as error:
            return _Read(error=error)

    def _readable(self, row: int, skipped: list[str]) -> int:
        """This row or the next readable one; adds a line to `skipped` for each unreadable row."""
        for step in range(len(self.data)):
            found = (row + step) % len(self.data)
            found = Drawn(found, row.seed) if isinstance(row, Drawn) else found
            try:
                self.data.__getitems__([found])
                return found
            except UserError as error:
                skipped.append(f"Left out: {error}")
        raise UserError(f"Nothing of the data can be read. {skipped[0]}")


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
