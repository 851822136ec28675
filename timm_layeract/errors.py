"""What faults end in, a single line each: a user's mistake, with its fix, and a file that cannot be written."""

import difflib
from collections.abc import Iterable

__all__ = ["UserError", "WriteError", "did_you_mean"]


FEW = 40  # names that fit into a message


class UserError(ValueError):
    """Something the user can mend; the command line prints its message and exits with code 2."""


class WriteError(OSError):
    """A file that cannot be written: the disk is full, or may not be written to."""

    def __str__(self) -> str:
        return f"{self.filename} cannot be written: {self.strerror}."


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Close names as a hint, "did you mean 'a' or 'b'?", or all the known ones where none is close and they are few."""
    known = list(known)
    close = difflib.get_close_matches(name, known, n=3)
    if close:
        return f"did you mean {' or '.join(map(repr, close))}?"
    return f"known are {', '.join(sorted(known))}." if len(known) <= FEW else f"none of {len(known)} is close."
