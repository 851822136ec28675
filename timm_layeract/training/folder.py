"""A run's folder: whose it is, and that one process at a time writes into it."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from .._utils.files import write_json
from .._utils.records import read_record
from ..errors import UserError

__all__ = ["PICTURE", "FolderInUseError", "check_output", "check_unused", "flatten", "own_folder"]

PICTURE = "examples.png"  # of segmentation: held-out images with their masks
LOCK = ".lock"  # held by the process that runs the run


class FolderInUseError(UserError):
    """Another process is running the run of a folder."""


def check_output(output: Path, resume: bool) -> None:
    """Refuse to write into a folder that holds something else."""
    if output.exists() and not output.is_dir():
        raise UserError(f"{output} is a file; give --output a folder.")
    if not resume and output.is_dir() and any(output.iterdir()):
        raise UserError(f"{output} is not empty; give --resume to continue its run, or another --output.")


@contextmanager
def own_folder(output: Path, identity: Mapping[str, object], is_main_process: bool) -> Iterator[None]:
    """Make the folder this run's while the block runs, or refuse one that another run or process has."""
    if not is_main_process:
        yield
        return
    output.mkdir(parents=True, exist_ok=True)
    with _lock(output):
        _claim(output, identity)
        yield


def check_unused(output: Path) -> None:
    """Refuse (FolderInUseError) a folder whose run another process is running now."""
    if output.is_dir():
        with _lock(output):
            pass


@contextmanager
def _lock(output: Path) -> Iterator[None]:
    try:
        lock = FileLock(output / LOCK).acquire(timeout=0)
    except Timeout as error:
        raise FolderInUseError(f"Another process is running the run in {output}; wait for it, or stop it.") from error
    with lock:
        yield


def _claim(output: Path, identity: Mapping[str, object]) -> None:
    """Make the folder this run's, or refuse one that belongs to another run."""
    path = output / "run.json"
    if path.exists():
        other = read_record(dict[str, object], path)
        flat_other, flat_own = flatten(other), flatten(identity)
        differing = [key for key in {**flat_own, **flat_other} if flat_own.get(key) != flat_other.get(key)]
        if differing:
            shown = "; ".join(f"{key}: {flat_other.get(key)} there, {flat_own.get(key)} here" for key in differing[:4])
            raise UserError(f"{output} holds another run ({shown}); give another --output.")
    else:
        write_json(path, identity)


def flatten(tree: Mapping[str, object], prefix: str = "") -> dict[str, object]:
    """``{"a": {"b": 1}}`` as ``{"a.b": 1}``."""
    flat: dict[str, object] = {}
    for key, value in tree.items():
        flat.update(flatten(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value})
    return flat
