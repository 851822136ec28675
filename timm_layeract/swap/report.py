"""What `swap_activations` found and did: a table for a person, entries for a program."""

from collections.abc import Iterator
from dataclasses import dataclass

__all__ = ["SwapEntry", "SwapReport"]


@dataclass(frozen=True)
class SwapEntry:
    """One activation of the model: where it is, what it was, and what it became or why it was left alone.

    Attributes:
        path: Module path; for a function call, the path of the child module that replaces it (or of the method).
        old: The activation that was found.
        new: The activation now in its place; None where it was left alone.
        reason: Why it was left alone; None where it was swapped.
    """

    path: str
    old: str
    new: str | None = None
    reason: str | None = None


@dataclass(frozen=True)
class SwapReport:
    """What `swap_activations` found: one `SwapEntry` for each activation, in the order of the model's modules.

    Prints as a table; iterates over, and has the length of, its entries.

    Attributes:
        entries: The activations.
        without_affine: BatchNorms that lost their affine parameters, by path (``placement="normalized"``).
        buffered: Head that a BatchNorm was put before, by path; None for none.
    """

    entries: tuple[SwapEntry, ...]
    without_affine: tuple[str, ...] = ()
    buffered: str | None = None

    @property
    def swapped(self) -> tuple[SwapEntry, ...]:
        """The entries that were replaced."""
        return tuple(entry for entry in self.entries if entry.new is not None)

    @property
    def left_alone(self) -> tuple[SwapEntry, ...]:
        """The entries that were not, each with its reason."""
        return tuple(entry for entry in self.entries if entry.new is None)

    def __len__(self) -> int:
        return len(self.entries)

    def __iter__(self) -> Iterator[SwapEntry]:
        return iter(self.entries)

    def __str__(self) -> str:
        rows = [("path", "old", "new")]
        rows += [(e.path, e.old, e.new if e.new is not None else f"left alone: {e.reason}") for e in self.entries]
        widths = [max(len(row[column]) for row in rows) for column in range(2)]
        lines = [f"{path:{widths[0]}}  {old:{widths[1]}}  {new}" for path, old, new in rows]
        lines.append(f"{len(self.swapped)} swapped, {len(self.left_alone)} left alone")
        if self.without_affine:
            lines.append(f"affine removed from {len(self.without_affine)} BatchNorms: {', '.join(self.without_affine)}")
        return "\n".join([*lines, *([f"BatchNorm put before {self.buffered}"] if self.buffered else [])])
