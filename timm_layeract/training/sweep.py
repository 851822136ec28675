"""Makes several runs, each in a folder of its own: models with seeds by one recipe, or what a queue file lists."""

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .._utils.options import shortened
from .._utils.plain_yaml import read_yaml
from ..errors import UserError, did_you_mean
from .dry_run import estimate
from .folder import FolderInUseError, check_unused
from .measurements import DivergedError
from .options import Execution, RunOptions
from .processes import process_state
from .recipe import SEEDS, Recipe
from .run import check_tracker, train
from .runs import read_finished
from .start import Start

__all__ = ["PlannedRun", "forecast", "plan", "read_queue", "run_folder", "sweep"]


@dataclass(frozen=True)
class PlannedRun:
    """A run that a sweep is to make.

    Attributes:
        folder: Folder of the run.
        start: Network that it starts from.
        recipe: Recipe, including the seed.
        data: As for `train`.
        data_name: As for `train`.
    """

    folder: Path
    start: Start
    recipe: Recipe
    data: str
    data_name: str | None = None

    @property
    def is_finished(self) -> bool:
        """Whether its result exists; refuses (UserError) the result of another recipe."""
        if not (self.folder / "result.json").exists():
            return False
        if read_finished(self.folder)["recipe"] != self.recipe.to_dict():
            raise UserError(f"{self.folder} is finished by another recipe; give the sweep another --output.")
        return True


def run_folder(folder: Path, model: str, seed: int) -> Path:
    """Where a sweep keeps the run of a model with a seed."""
    return folder / f"{model.replace(':', '_').replace('/', '_')}.seed{seed}"


def plan(
    models: Sequence[Start | str],
    seeds: Sequence[int],
    recipe: Recipe,
    data: str,
    folder: Path,
    data_name: str | None = None,
) -> list[PlannedRun]:
    """The runs of these models with these seeds, all models with their first seed before any with its second.

    Args:
        models: As for `train`.
        seeds: Seeds that replace the recipe's.
        recipe: Recipe of all runs.
        data: As for `train`.
        folder: Parent of the runs' folders, see `run_folder`.
        data_name: As for `train`.
    """
    starts = [Start(model) if isinstance(model, str) else model for model in models]
    return [
        PlannedRun(run_folder(folder, start.name, seed), start, recipe.replace(seed=seed), data, data_name)
        for seed in seeds
        for start in starts
    ]


def read_queue(path: Path, options: RunOptions, folder: Path) -> list[PlannedRun]:
    """The runs of a queue file, in its order.

    The file is a YAML list. An entry has a ``model``, and may have ``seeds`` (a list, else the recipe's seed), a
    ``name`` for the folder in the model's place, ``pretrained`` (true to fine-tune), ``set`` (values for keys of the
    recipe), and any option of a run: ``recipe``, ``data``, ``epochs``, ``lr``, ...

    Args:
        path: Queue file.
        options: What entries do not say themselves.
        folder: Parent of the runs' folders.

    Raises:
        UserError: An unreadable file; an entry without a model, with an unknown key or a value that no run can have;
            two runs of one folder.
    """
    try:
        entries = read_yaml(path.read_text(), str(path))
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"The queue {path} cannot be read: {error}") from error
    if not isinstance(entries, list) or not entries:
        raise UserError(f"{path} must hold a list of runs, as '- model: resnet20_lasilu'.")
    runs: list[PlannedRun] = []
    for number, entry in enumerate(entries, 1):
        try:
            runs += _entry_runs(entry, options, folder)
        except UserError as error:
            raise UserError(f"{path}, run {number}: {error}") from error
    folders = [run.folder for run in runs]
    twice = [each.name for each in folders if folders.count(each) > 1]
    if twice:
        raise UserError(f"{path} has two runs in {twice[0]}; give one of them a name.")
    return runs


def _entry_runs(entry: Any, options: RunOptions, folder: Path) -> list[PlannedRun]:
    """The runs of one entry of a queue, one for each seed."""
    if not isinstance(entry, dict):
        raise UserError(f"give keys and values, got {shortened(entry)}.")
    keys = {field.name for field in dataclasses.fields(RunOptions)} - {"settings", "seed"}
    known = (*sorted(keys), "model", "seeds", "name", "pretrained", "set")
    unknown = [key for key in entry if key not in known]
    if unknown:
        raise UserError(f"unknown key {shortened(unknown[0])}; {did_you_mean(str(unknown[0])[:60], known)}")
    model, name, pretrained = entry.get("model"), entry.get("name", entry.get("model")), entry.get("pretrained", False)
    if not (isinstance(model, str) and model and isinstance(name, str) and name and isinstance(pretrained, bool)):
        raise UserError("model and name must be text, and pretrained true or false.")
    changes = entry.get("set") or {}
    if not isinstance(changes, dict):
        raise UserError(f"set must hold keys and values of the recipe, got {shortened(changes)}.")
    settings = [f"{key}={json.dumps(value)}" for key, value in changes.items()]
    given = {key: entry[key] for key in keys if key in entry}
    own = dataclasses.replace(options, settings=[*(options.settings or ()), *settings], **given)
    start = Start.by_options(model, own, pretrained)
    recipe = own.load_recipe(start.recipes)
    seeds = entry.get("seeds", [recipe.seed])
    if not isinstance(seeds, list) or not seeds or not all(type(seed) is int and SEEDS.hold(seed) for seed in seeds):
        raise UserError(f"seeds must be a list of whole numbers {SEEDS}, got {shortened(seeds)}.")
    return [
        PlannedRun(run_folder(folder, name, seed), start, recipe.replace(seed=seed), own.data, own.data_name)
        for seed in seeds
    ]


def _check(runs: Sequence[PlannedRun], execution: Execution) -> None:
    """Refuse (UserError) runs that could not finish, before any of them starts."""
    if process_state().num_processes > 1:
        raise UserError("A sweep takes one process per run: start `layeract sweep` once for each GPU instead.")
    check_tracker(execution.tracker)
    for start, recipe in {(run.start, run.recipe.replace(seed=0)): None for run in runs}:
        start.check(recipe)


def sweep(runs: Sequence[PlannedRun], execution: Execution = Execution()) -> None:
    """Make the runs whose results are not there yet; those that were interrupted go on.

    Several processes, one a GPU or a core, may sweep the same runs at the same time: each takes one that no other has.

    Args:
        runs: In this order.
        execution: How each is run; all resume.

    Raises:
        UserError: A finished run there that is of another recipe; several processes in one launch; as `train`. A run
            whose loss was not finite stops none of the others, and is named at the end.
    """
    _check(runs, execution)
    diverged = []
    for number, run in enumerate(runs, 1):
        if run.is_finished:
            continue
        execution.report(f"{run.folder.name} ({number} of {len(runs)})")
        try:
            check_unused(run.folder)  # before the data is read
            train(
                run.start,
                run.recipe,
                run.data,
                run.folder,
                data_name=run.data_name,
                execution=dataclasses.replace(execution, resume=True),
            )
        except FolderInUseError:
            execution.report("another process is training it")
        except DivergedError as error:
            execution.report(str(error))
            diverged.append(run.folder.name)
    if diverged:
        raise UserError(f"The loss of {', '.join(diverged)} was not finite: give a smaller learning rate.")


def forecast(runs: Sequence[PlannedRun], execution: Execution = Execution()) -> list[tuple[str, str, str]]:
    """What `sweep` would do: the name of each run, its recipe, and its time, measured on a few steps of each kind.

    Raises:
        UserError: As `sweep`, before any run.
    """
    _check(runs, execution)
    times: dict[tuple[Start, Recipe, str], str] = {}
    rows = []
    for run in runs:
        kind = (run.start, run.recipe.replace(seed=0), run.data)
        if run.is_finished:
            time = "finished"
        else:
            if kind not in times:
                times[kind] = f"about {estimate(run.start, run.recipe, run.data).time}"
            time = times[kind]
        rows.append((run.folder.name, run.recipe.name, time))
    return rows
