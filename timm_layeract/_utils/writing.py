"""The one way to write a file: whole or not at all, and on the disk when it has its name.

A file is written under a name of its own in the same folder, so that two processes that write the same one do not mix;
it is synced, gets its name, and then the folder is synced, which holds the name.
"""

import contextlib
import errno
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import BinaryIO

from ..errors import UserError, WriteError

__all__ = [
    "check_file",
    "check_folder",
    "copy_whole",
    "is_partial",
    "make_folder",
    "remove_empty",
    "rename",
    "staging",
    "write_whole",
    "writing",
]

PARTIAL = ".partial"
SHOWN_CHARACTERS = 50  # characters of a name that its partial file shows: a name in a folder has room for 255 bytes
# What file systems answer that know no syncing of folders, as some across a network.
NO_SYNC = (errno.EINVAL, errno.ENOTSUP, errno.EACCES, errno.EBADF)


def check_folder(folder: Path, option: str = "--output") -> None:
    """Refuse (UserError) a folder that could not be made or written into, before there is anything to write."""
    shown = f"{str(folder)[:80]!r}"
    place = folder.absolute()
    while True:
        try:
            place.lstat()
            break
        except (FileNotFoundError, NotADirectoryError):
            place = place.parent
        except (OSError, ValueError) as error:  # a name too long, a loop of links, a null character
            raise UserError(
                f"{option} {shown} is not a folder: {getattr(error, 'strerror', None) or error}."
            ) from error
    if not place.is_dir():
        kind = "a file" if place.exists() else "a broken link"
        raise UserError(f"{place} is {kind}; give {option} a folder.")
    if not os.access(place, os.W_OK | os.X_OK):
        raise UserError(f"{option} {shown}: {place} may not be written to.")


def check_file(path: Path, option: str = "--output") -> None:
    """Refuse (UserError) a file that could not be written, before there is anything to write."""
    check_folder(path.parent, option)
    if path.is_dir():
        raise UserError(f"{path} is a folder; give {option} a file.")


@contextmanager
def writing(path: Path) -> Iterator[BinaryIO]:
    """A file to write into, which is at `path` when the block ends, or, if that fails, is gone.

    Raises:
        WriteError: It cannot be written; what was at `path` is as it was.
    """
    made: list[Path] = []
    partial = path.with_name(f".{path.name[:SHOWN_CHARACTERS]}.{secrets.token_hex(4)}{PARTIAL}")
    try:
        if path.exists() and not path.is_file():
            raise OSError(errno.EEXIST, "there is something that is no file", str(path))
        made = make_folder(path.parent)
        with partial.open("xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        rename(partial, path)
    except BaseException as error:
        with contextlib.suppress(OSError):
            partial.unlink()
        remove_empty(made)
        if isinstance(error, OSError) and not isinstance(error, WriteError):
            raise _write_error(error, path) from error
        raise


def write_whole(path: Path, content: str | bytes) -> None:
    """Write a file, whole or not at all; see `writing`."""
    with writing(path) as file:
        file.write(content.encode() if isinstance(content, str) else content)


@contextmanager
def staging(folder: Path) -> Iterator[Path]:
    """A folder for several files, which are in `folder` when the block ends, or, if that fails, are gone.

    Raises:
        WriteError: They cannot be written; what was in `folder` is as it was.
    """
    made = make_folder(folder)
    try:
        with TemporaryDirectory(prefix=".", suffix=PARTIAL, dir=folder) as staged:
            yield Path(staged)
            paths = sorted(Path(staged).iterdir())
            for path in paths:
                with path.open("r+b") as file:  # other packages do not sync theirs
                    os.fsync(file.fileno())
            for path in paths:
                rename(path, folder / path.name)
    except BaseException as error:
        remove_empty(made)
        if isinstance(error, OSError):
            name = Path(error.filename).name if isinstance(error.filename, str) else ""
            raise _write_error(error, folder / name) from error
        raise


def copy_whole(source: Path, path: Path) -> None:
    """Copy a file, whole or not at all; see `writing`."""
    with source.open("rb") as read, writing(path) as file:
        shutil.copyfileobj(read, file)


def rename(path: Path, name: Path) -> None:
    """Rename a file or folder within its folder, durably."""
    path.replace(name)
    if os.name == "nt":  # Windows does not open folders, and needs no such call
        return
    try:
        descriptor = os.open(name.parent, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        if error.errno not in NO_SYNC:
            raise


def is_partial(path: Path) -> bool:
    """Whether this was left by a process that died while writing a file."""
    return path.name.startswith(".") and path.name.endswith(PARTIAL)


def make_folder(folder: Path) -> list[Path]:
    """Make a folder and its parents; returns the ones that did not exist, deepest first."""
    missing = [each for each in (folder, *folder.parents) if not each.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        remove_empty(missing)
        raise _write_error(error, folder) from error
    return missing


def _write_error(error: OSError, path: Path) -> WriteError:
    return WriteError(error.errno, error.strerror or str(error), str(path))


def remove_empty(folders: list[Path]) -> None:
    """Remove the folders that are empty; the deepest come first."""
    for folder in folders:
        with contextlib.suppress(OSError):
            folder.rmdir()
