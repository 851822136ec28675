"""Trains several models with several seeds by one recipe, each in a folder of its own."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ..errors import UserError
from .engine import process_state
from .folder import FolderInUseError, check_unused
from .recipe import Recipe
from .run import train
from .runs import read_finished

__all__ = ["run_folder", "sweep"]


def run_folder(folder: Path, model: str, seed: int) -> Path:
    """Where a sweep keeps the run of a model with a seed."""
    return folder / f"{model.replace(':', '_').replace('/', '_')}.seed{seed}"


def sweep(
    models: Sequence[str],
    seeds: Sequence[int],
    recipe: Recipe,
    data: str,
    folder: Path,
    *,
    report: Callable[[str], None] = print,
    **options: Any,
) -> None:
    """Train what a folder lacks yet of these models with these seeds; runs that were interrupted go on.

    All models have their first seed before any has its second. Several processes, one a GPU or a core, may sweep one
    folder at the same time: each takes a run that no other has.

    Args:
        models: Names, as of `train`.
        seeds: Each in the place of the recipe's.
        recipe: Of all runs.
        data: As of `train`.
        folder: Of the runs' folders, see `run_folder`.
        report: Called with lines for a person to read.
        **options: As of `train`, for every run.

    Raises:
        UserError: A finished run there that is of another recipe; several processes in one launch; as `train`.
    """
    if process_state().num_processes > 1:
        raise UserError("A sweep takes one process a run: start `layeract sweep` once for each GPU instead.")
    runs = {run_folder(folder, model, seed): (model, recipe.replace(seed=seed)) for seed in seeds for model in models}
    for number, (run, (model, seeded)) in enumerate(runs.items(), 1):
        if (run / "result.json").exists():
            if read_finished(run)["recipe"] != seeded.to_dict():
                raise UserError(f"{run} is finished by another recipe; give the sweep another --output.")
            continue
        report(f"{run.name} ({number} of {len(runs)})")
        try:
            check_unused(run)  # before the data is read
            train(model, seeded, data, run, resume=True, report=report, **options)
        except FolderInUseError:
            report("another process is training it")
