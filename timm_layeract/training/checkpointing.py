"""Checkpoints of a run: written whole or not at all, the newest one that is undamaged found again.

A checkpoint is a folder ``step-NUMBER`` with a file for each thing that has a state (see `states`), and one for the
random numbers of each process. It is written under another name, the hashes of its files are listed in seal.json, and
only then does it get its name; a process that dies on the way leaves the one before.
"""

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

from accelerate import Accelerator

from .._utils.files import write_json
from .._utils.writing import rename
from ..checkpoints.save import file_sha256
from ..errors import UserError, WriteError
from .folder import CHECKPOINT
from .states import RandomState, read_state, write_state

__all__ = ["Stateful", "find_checkpoint", "load_checkpoint", "write_checkpoint"]

SEAL = "seal.json"
KEPT = 2  # the newest may turn out damaged
# Ends of names that pickles have; runs of earlier versions had some in their checkpoints.
STATE_PICKLES = (".bin", ".pkl", ".pt", ".pth")


class Stateful(Protocol):
    """What a checkpoint keeps the state of."""

    def state_dict(self) -> Any:
        """A tree as `states.write_state` takes it; every process asks for it at once."""

    def load_state_dict(self, state: Any) -> object:
        """Go on from it."""


def write_checkpoint(accelerator: Accelerator, folder: Path, step: int, parts: Mapping[str, Stateful]) -> None:
    """Write the states of these parts as the checkpoint after `step` optimizer steps; every process calls it."""
    final = folder / f"step-{step:09d}"
    partial = folder / f"partial-{final.name}"
    if accelerator.is_main_process:
        for left in folder.glob("partial-*"):
            shutil.rmtree(left)
    accelerator.wait_for_everyone()
    states = {name: part.state_dict() for name, part in parts.items()}
    try:
        if accelerator.is_main_process:
            for name, state in states.items():
                write_state(partial / f"{name}.safetensors", state)
        write_state(partial / _random_file(accelerator), RandomState(accelerator.device).state_dict())
        accelerator.wait_for_everyone()
        if accelerator.is_main_process:
            write_json(partial / SEAL, _hashes(partial))
    except WriteError:  # leave room for what there is to write
        shutil.rmtree(partial, ignore_errors=True)
        raise
    if accelerator.is_main_process:
        if final.exists():  # a damaged one that the run went back behind
            shutil.rmtree(final)
        rename(partial, final)
        others = [path for path in _newest_first(folder) if path != final]
        kept = [path for path in others if path.name < final.name][: KEPT - 1]
        for path in set(others) - set(kept):
            shutil.rmtree(path)
    accelerator.wait_for_everyone()


def load_checkpoint(accelerator: Accelerator, checkpoint: Path, parts: Mapping[str, Stateful]) -> None:
    """Put states into these parts; every process calls it.

    Raises:
        UserError: A state is missing, or is of another part.
    """
    loading = {f"{name}.safetensors": part for name, part in parts.items()}
    loading[_random_file(accelerator)] = RandomState(accelerator.device)
    for name, part in loading.items():
        state = read_state(checkpoint / name)
        try:
            part.load_state_dict(state)
        except (RuntimeError, ValueError, LookupError, TypeError, AttributeError) as error:
            reason = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
            raise UserError(f"{checkpoint / name} does not fit this run: {reason}") from error


def _random_file(accelerator: Accelerator) -> str:
    return f"random-{accelerator.process_index}.safetensors"


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
        raise UserError(f"{'; '.join(faults)}: none is left to resume from. Give another --output to start over.")
    return None


def _newest_first(folder: Path) -> list[Path]:
    return sorted(folder.glob(CHECKPOINT), reverse=True)


def _files(checkpoint: Path) -> list[Path]:
    return [path for path in sorted(checkpoint.rglob("*")) if path.is_file() and path.name != SEAL]


def _hashes(checkpoint: Path) -> dict[str, str]:
    return {str(path.relative_to(checkpoint)): file_sha256(path) for path in _files(checkpoint)}


def _fault(checkpoint: Path) -> str | None:
    """What is wrong with a checkpoint, None if nothing."""
    try:
        seal = json.loads((checkpoint / SEAL).read_text())
    except (OSError, ValueError, RecursionError):
        seal = None
    if not isinstance(seal, dict):
        return f"{SEAL} cannot be read"
    pickles = [path.name for path in _files(checkpoint) if path.suffix in STATE_PICKLES]
    if pickles:
        return f"{pickles[0]} is a pickle, as earlier versions wrote, which can run code when it is read"
    found = _hashes(checkpoint)
    for name in sorted({*seal, *found}):
        if seal.get(name) != found.get(name):
            return f"{name} is {'missing' if name not in found else 'not what was written'}"
    return None
