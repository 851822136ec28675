"""What runs there are in a folder, how far they are and how good; the results of finished ones."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from rich.table import Column, Table
from typing_extensions import TypedDict

from .._utils.records import check_record, read_record
from ..checkpoints.records import Environment, Identity, LoggedEpoch, Result, Scores
from ..errors import UserError
from .display import show_figures
from .folder import IDENTITY, FolderInUseError, check_unused, flatten

__all__ = ["check_alike", "list_runs", "read_environment", "read_finished", "runs_table"]

SCORES = ("best_epoch", "validation", "test")  # keys of a result that say how good a run was
OUTCOME = (*SCORES, "adaptation", "dead_units")  # and those that its seed changes


class ListedRun(TypedDict):
    """A run as it stands.

    How many epochs are done, the figure that chooses one, the best figures on held-out data and the percentages of dead
    units there (None before the first epoch's end), and test figures (None before the run's).
    """

    name: str
    model: str
    recipe: str
    seed: int
    state: Literal["running", "finished", "stopped"]
    epochs: int
    monitor: str
    best: Scores | None
    dead: dict[str, float] | None
    test: Scores | None


def list_runs(folder: Path) -> list[ListedRun]:
    """What is known of every run in the folder's subfolders.

    Raises:
        UserError: No such folder, or no run in it.
    """
    if not folder.is_dir():
        raise UserError(f"There is no folder {folder}; name the one that holds the runs.")
    found = [_read(path.parent) for path in sorted(folder.glob(f"*/{IDENTITY}"))]
    if not found:
        raise UserError(f"{folder} holds no runs: none of its folders has a {IDENTITY}.")
    return found


def runs_table(folder: Path) -> Table:
    """`list_runs` for a person to read."""
    name = Column("run", no_wrap=True)  # the others give way to it
    folded = (Column(head, overflow="fold") for head in ("model", "recipe"))
    table = Table(name, *folded, "seed", "state", "epochs", "held out", "test", "dead", box=None, pad_edge=False)
    for run in list_runs(folder):
        monitor = run["monitor"]
        best, test = (show_figures({monitor: each[monitor]}) if each else "-" for each in (run["best"], run["test"]))
        dead = "-" if run["dead"] is None else f"{max(run['dead'].values(), default=0):.3g} %"
        cells = (run["name"], run["model"], run["recipe"], run["seed"], run["state"], run["epochs"], best, test, dead)
        table.add_row(*map(str, cells))
    return table


def read_finished(run: Path) -> Result:
    """The result of a finished run; a UserError if it has none."""
    return read_record(Result, _left(run, "result.json"))


def read_environment(run: Path) -> Environment:
    """Where and when a finished run was made; a UserError if it does not say."""
    return read_record(Environment, _left(run, "environment.json"))


def _left(run: Path, name: str) -> Path:
    path = run / name
    if not path.exists():
        raise UserError(f"{run} is not a finished run: it has no {name}; go on with it by `layeract train --resume`.")
    return path


def check_alike(runs: Sequence[Path], results: Sequence[Result], but: Sequence[str] = ()) -> None:
    """Refuse (UserError) runs that differ from the first in more than the seed and the keys `but` of their results."""
    ignored = ("recipe.seed", *OUTCOME, *but)

    def identity(result: Result) -> dict[str, object]:
        return {key: value for key, value in flatten(result).items() if not _is_of(key, ignored)}

    first = identity(results[0])
    for run, result in zip(runs, results, strict=True):
        other = identity(result)
        for key in {**first, **other}:
            if first.get(key) != other.get(key):
                allowed, found = " and ".join(("seed", *but[:1])), f"{other.get(key)}, not {first.get(key)}"
                raise UserError(f"{run} is not {runs[0]} with another {allowed}: its {key} is {found}.")


def _is_of(key: str, trees: Sequence[str]) -> bool:
    return any(key == tree or key.startswith(f"{tree}.") for tree in trees)


def _read(run: Path) -> ListedRun:
    identity = read_record(Identity, run / IDENTITY)
    monitor = identity["monitor"]
    epochs = _read_log(run / "log.jsonl")
    best = max(epochs, key=lambda each: each["val"][monitor], default=None)
    finished = (run / "result.json").exists()
    return {
        "name": run.name,
        "model": identity["model"],
        "recipe": identity["recipe"]["name"],
        "seed": identity["recipe"]["seed"],
        "state": "finished" if finished else "running" if _is_running(run) else "stopped",
        "epochs": len(epochs),
        "monitor": monitor,
        "best": best["val"] if best else None,
        "dead": best.get("dead") if best else None,
        "test": read_finished(run)["test"] if finished else None,
    }


def _read_log(path: Path) -> list[LoggedEpoch]:
    """The epochs of log.jsonl, a line each."""
    if not path.exists():
        return []
    try:
        lines = [json.loads(line) for line in path.read_text().splitlines()]
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path} cannot be read: {error}") from error
    return check_record(list[LoggedEpoch], lines, str(path))


def _is_running(run: Path) -> bool:
    try:
        check_unused(run)
    except FolderInUseError:
        return True
    return False
