"""Checkpoints of a run: written whole or not at all, the newest one that is undamaged found again.

A checkpoint is a folder ``step-NUMBER`` of what accelerate saves. It is written under another name, its files are
synced, their hashes are listed in seal.json, and only then does it get its name; a process that dies on the way leaves
the one before.
"""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

from accelerate import Accelerator

from .._utils.files import write_json
from ..checkpoints.save import file_sha256
from ..errors import UserError

__all__ = ["find_checkpoint", "write_checkpoint"]

SEAL = "seal.json"
KEPT = 2  # the newest may turn out damaged


def write_checkpoint(accelerator: Accelerator, folder: Path, step: int) -> None:
    """Write what `accelerator` knows as the checkpoint after `step` optimizer steps; every process calls it."""
    final = folder / f"step-{step:09d}"
    partial = folder / f"partial-{final.name}"
    if accelerator.is_main_process:
        folder.mkdir(parents=True, exist_ok=True)
        for left in folder.glob("partial-*"):
            shutil.rmtree(left)
    accelerator.wait_for_everyone()
    accelerator.save_state(str(partial))
    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        _seal(partial)
        if final.exists():  # a damaged one that the run went back behind
            shutil.rmtree(final)
        partial.rename(final)
        _sync(folder)
        others = [path for path in _newest_first(folder) if path != final]
        kept = [path for path in others if path.name < final.name][: KEPT - 1]
        for path in set(others) - set(kept):
            shutil.rmtree(path)
    accelerator.wait_for_everyone()


def find_checkpoint(folder: Path, report: Callable[[str], None]) -> Path | None:
    """The newest undamaged checkpoint, None where there is none at all; `report` hears of damaged ones.

    Raises:
        UserError: All there are, are damaged.
    """
    faults = []
    for path in _newest_first(folder):
        fault = _fault(path)
        if fault is None:
            return path
        faults.append(f"checkpoint {path.name} is damaged ({fault})")
        report(f"{faults[-1]}; going back to the one before")
    if faults:
        raise UserError(f"{'; '.join(faults)}: none is left to resume from. Give another --output to start anew.")
    return None


def _newest_first(folder: Path) -> list[Path]:
    return sorted(folder.glob("step-*"), reverse=True)


def _files(checkpoint: Path) -> list[Path]:
    return [path for path in sorted(checkpoint.rglob("*")) if path.is_file() and path.name != SEAL]


def _hashes(checkpoint: Path) -> dict[str, str]:
    return {str(path.relative_to(checkpoint)): file_sha256(path) for path in _files(checkpoint)}


def _seal(checkpoint: Path) -> None:
    """Put every file on disk, then the list of their hashes."""
    for path in _files(checkpoint):
        _sync(path)
    seal = checkpoint / SEAL
    write_json(seal, _hashes(checkpoint))
    _sync(seal)
    _sync(checkpoint)


def _sync(path: Path) -> None:
    if path.is_dir() and os.name == "nt":  # Windows does not open folders, and needs no such call
        return
    descriptor = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _fault(checkpoint: Path) -> str | None:
    """What is wrong with a checkpoint, None if nothing."""
    try:
        seal = json.loads((checkpoint / SEAL).read_text())
    except (OSError, ValueError):
        seal = None
    if not isinstance(seal, dict):
        return f"{SEAL} cannot be read"
    found = _hashes(checkpoint)
    for name in sorted({*seal, *found}):
        if seal.get(name) != found.get(name):
            return f"{name} is {'missing' if name not in found else 'not what was written'}"
    return None
