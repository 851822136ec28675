"""What faults end in, a single line each: a user's mistake, with its fix, and a file that cannot be written."""

import difflib
from collections.abc import Iterable

__all__ = ["UserError", "WriteError", "did_you_mean"]


ROOM = 120  # characters of a message that names may take


class UserError(ValueError):
    """Something the user can fix; the command line prints its message and exits with code 2."""


class WriteError(OSError):
    """A file that cannot be written: the disk is full, or may not be written to."""

    def __str__(self) -> str:
        return f"{self.filename} cannot be written: {self.strerror}."


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Close names as a hint, "did you mean 'a' or 'b'?", or all there are where none is close and there is room."""
    known = sorted(known)
    close = difflib.get_close_matches(name, known, n=3)
    if close:
        return f"did you mean {' or '.join(map(repr, close))}?"
    shown = ", ".join(known)
    return f"known are {shown}." if len(shown) <= ROOM else f"none of the {len(known)} names is close."
