"""A run's folder: whose it is, that one process at a time writes into it, and that a failed start leaves nothing in it.

Until its first checkpoint a run has done nothing that another start could go on with. What it has written by then is
removed if it fails, and passed over by the next start if it is killed.
"""

import os
import shutil
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from .._utils.files import write_json
from .._utils.records import read_record
from .._utils.writing import check_folder, is_partial, make_folder, remove_empty
from ..errors import UserError, WriteError

__all__ = [
    "BEST",
    "CHECKPOINT",
    "CHECKPOINTS",
    "IDENTITY",
    "PICTURE",
    "TRACKED",
    "FolderInUseError",
    "check_output",
    "check_unused",
    "flatten",
    "own_folder",
]

PICTURE = "examples.png"  # of segmentation: held-out images with their masks
LOCK = ".lock"  # held by the process that runs the run
IDENTITY = "run.json"
HASHES = tuple(f"data.{split}_sha256" for split in ("train", "test", "validation"))  # in it, of the data's content
BEST = "best.safetensors"  # weights of the best epoch so far
CHECKPOINTS = "checkpoints"
CHECKPOINT = "step-*"
TRACKED = "timm_layeract"  # what trackers call the project; some of them a folder


class FolderInUseError(UserError):
    """Another process is running the run of a folder."""


def check_output(output: Path, resume: bool) -> None:
    """Refuse to write into a folder that holds something else."""
    check_folder(output)
    if (output / IDENTITY).is_file():
        read_record(dict[str, object], output / IDENTITY)  # or nobody knows whose run it is
    if not resume and output.is_dir() and not _is_unstarted(output):
        raise UserError(f"{output} is not empty; give --resume to continue its run, or another --output.")


@contextmanager
def own_folder(
    output: Path, identity: Mapping[str, object], is_main_process: bool, may_differ: Collection[str] = ()
) -> Iterator[None]:
    """Make the folder this run's while the block runs, or refuse one that another run or process has.

    A run is the same though it differs in the keys `may_differ`. If the block fails before there is a checkpoint, the
    folder is as it was before.
    """
    if not is_main_process:
        yield
        return
    made = make_folder(output)
    try:
        with _lock(output):
            is_new = _is_unstarted(output)
            if is_new:
                _clear(output, but=LOCK)
            for path in filter(is_partial, list(output.rglob("*"))):
                _remove(path)
            try:
                _claim(output, identity, may_differ)
                yield
            except BaseException:
                if is_new and _is_unstarted(output, BEST):
                    _clear(output)
                raise
    finally:
        remove_empty(made)


def _is_unstarted(output: Path, *more: str) -> bool:
    """Whether the folder holds nothing but what a run writes before its first checkpoint."""
    # without the record of a run, a folder of these names is somebody's own
    early = (LOCK, IDENTITY, CHECKPOINTS, TRACKED) if (output / IDENTITY).is_file() else (LOCK,)
    known = all(path.name in (*early, *more) or is_partial(path) for path in output.iterdir())
    return known and not any((output / CHECKPOINTS).glob(CHECKPOINT))


def _clear(output: Path, but: str = "") -> None:
    for path in output.iterdir():
        if path.name != but:
            _remove(path)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def check_unused(output: Path) -> None:
    """Refuse (FolderInUseError) a folder whose run another process is running now."""
    if (output / LOCK).exists() and os.access(output / LOCK, os.W_OK):  # a run that may be read alone is not run here
        with _lock(output):
            pass


@contextmanager
def _lock(output: Path) -> Iterator[None]:
    try:
        lock = FileLock(output / LOCK).acquire(timeout=0)
    except Timeout as error:
        raise FolderInUseError(f"Another process is running the run in {output}; wait for it, or stop it.") from error
    except OSError as error:  # a folder that may only be read, or a disk that knows no locks
        raise WriteError(error.errno, error.strerror or str(error), str(output / LOCK)) from error
    with lock:
        yield


def _claim(output: Path, identity: Mapping[str, object], may_differ: Collection[str]) -> None:
    """Claim the folder for this run; refuse one that belongs to another run."""
    path = output / IDENTITY
    if path.exists():
        other = read_record(dict[str, object], path)
        flat_other, flat_own = flatten(other), flatten(identity)
        keys = [key for key in {**flat_own, **flat_other} if key not in may_differ]
        differing = [key for key in keys if flat_own.get(key) != flat_other.get(key)]
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
