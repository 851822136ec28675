"""A run from start to result: model and data by name, an output folder, resuming, the exported model and its figures.

A run's folder holds run.json (what it is), log.jsonl (a line an epoch), checkpoints/ and best.safetensors while it
goes; at its end also model/ (Hub layout), result.json, which is the same when the run is repeated on the same machine,
environment.json (device, versions, time taken) and curve.png; of segmentation also examples.png, held-out images with
their masks; of texts also model/tokenizer.json, the vocabulary.
"""

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch
from accelerate.tracking import LOGGER_TYPE_TO_CLASS, get_available_trackers
from accelerate.utils import set_seed

from .._utils.names import dataset_name
from .._utils.timm_types import PretrainedConfig
from ..checkpoints.records import Identity, Result
from ..checkpoints.save import save_pretrained
from ..data.splits import Split, holdout
from ..errors import UserError, did_you_mean
from .curves import plot_curves
from .display import show_dead, show_figures
from .engine import Trainer
from .folder import HASHES, PICTURE, TRACKED, check_output, own_folder
from .history import EpochRecord
from .identity import identify
from .options import Execution
from .preprocessing import record_preprocessing
from .processes import process_state
from .recipe import Recipe
from .results import finish, summary
from .start import Start
from .tasks import TASKS
from .tasks.protocol import Task

__all__ = [
    "build_trainer",
    "check_tracker",
    "fit",
    "open_splits",
    "prepare",
    "running",
    "train",
    "train_on",
]


def train(
    start: Start | str,
    recipe: Recipe,
    data: str,
    output: str | Path,
    *,
    data_name: str | None = None,
    execution: Execution = Execution(),
) -> Result:
    """Train a network on a data set by name; returns what result.json holds.

    Args:
        start: Network, or its name where it is to be trained from its initialisation.
        recipe: What to do.
        data: Parquet folder, image folder or Hub data set id.
        output: Folder of the run; must be new or empty unless `execution` resumes.
        data_name: What the data is called in results; the last part of `data` if None.
        execution: How it is run.

    Raises:
        UserError: Unknown model, unreadable data, labels outside the head, used output folder, other run to resume,
            loss not finite.
    """
    start = Start(start) if isinstance(start, str) else start
    check_output(Path(output), execution.resume)
    check_tracker(execution.tracker)
    model, splits = prepare(start, recipe, data, execution.progress)
    called = data_name or dataset_name(data)
    return _train(model, recipe, splits, Path(output), called, start.weights, execution)


def prepare(start: Start, recipe: Recipe, data: str, progress: bool) -> tuple[torch.nn.Module, Mapping[str, Split]]:
    """The network, initialised by the recipe's seed, and the splits of a data set; arguments as for `train`."""
    start.check(recipe)
    splits = open_splits(data, recipe, start.source.describe()[1], progress)
    set_seed(recipe.seed)
    return start.create(recipe, splits["train"]), splits


def open_splits(
    data: str, recipe: Recipe, config: PretrainedConfig, progress: bool, labelled: bool = True
) -> Mapping[str, Split]:
    """The splits of a data set by name, as the recipe's task reads them; see `NamedTask.splits`."""
    state = process_state()
    with state.main_process_first():  # the first to read fills the cache that the others read
        return TASKS[recipe.task].splits(data, recipe, config, progress and state.is_main_process, labelled)


def train_on(
    model: torch.nn.Module,
    recipe: Recipe,
    train_split: Split,
    test_split: Split | None,
    output: str | Path,
    *,
    data_name: str,
    started_from: str | None = None,
    execution: Execution = Execution(),
) -> Result:
    """Train a network on splits that are open already.

    Args:
        model: timm model.
        recipe: What to do.
        train_split: A part of it is held out to choose the best epoch.
        test_split: Read once, at the end; None for none.
        output: Folder of the run; must be new or empty unless `execution` resumes.
        data_name: What the data is called in results.
        started_from: Names the weights that the model came with.
        execution: How it is run.
    """
    check_output(Path(output), execution.resume)
    if not recipe.epochs and not recipe.steps:
        raise UserError(f"Recipe {recipe.name} trains for 0 epochs; give more.")
    splits = {"train": train_split, **({"test": test_split} if test_split else {})}
    return _train(model, recipe, splits, Path(output), data_name, started_from, execution)


def _train(
    model: torch.nn.Module,
    recipe: Recipe,
    splits: Mapping[str, Split],
    output: Path,
    data_name: str,
    started_from: str | None,
    execution: Execution,
) -> Result:
    identity = identify(model, recipe, splits, data_name, started_from)
    task, test = TASKS[recipe.task](model, recipe, splits["train"]), splits.get("test")
    with running(model, recipe, task, splits, output, identity, execution) as trainer:
        trainer.resume()
        fit(trainer)
        result = finish(trainer, identity, test)
        if trainer.accelerator.is_main_process:
            record_preprocessing(trainer.evaluated, recipe, splits["train"])
            save_pretrained(trainer.evaluated, output / "model", splits["train"].classes)
            task.save(output / "model")
            task.illustrate(trainer.evaluated, trainer.val_data, output / PICTURE)
            plot_curves(trainer.history, trainer.best.epoch, task.monitor, output / "curve.png")
            trainer.report(summary(result, output))
    return result


@contextmanager
def running(
    model: torch.nn.Module,
    recipe: Recipe,
    task: Task,
    splits: Mapping[str, Split],
    output: Path,
    identity: Identity,
    execution: Execution,
) -> Iterator[Trainer]:
    """A trainer, whose folder is this run's alone while the block runs; see `build_trainer`.

    Raises:
        UserError: The folder holds another run, or another process is in it.
    """
    trainer = build_trainer(model, recipe, task, splits, output, execution)
    state = process_state()
    may_differ = HASHES if execution.skip_unreadable else ()  # of files that broke meanwhile
    with own_folder(output, identity, state.is_main_process, may_differ):
        state.wait_for_everyone()
        yield trainer
        state.wait_for_everyone()


def build_trainer(
    model: torch.nn.Module,
    recipe: Recipe,
    task: Task,
    splits: Mapping[str, Split],
    output: Path,
    execution: Execution,
) -> Trainer:
    """The trainer of a run.

    Args:
        model: timm model.
        recipe: What to do.
        task: What it is done for.
        splits: ``"train"``, of which a part is held out to choose the best epoch where there is no ``"validation"``.
        output: Folder of the run.
        execution: How it is run.
    """
    training, validation = splits["train"], splits.get("validation")
    if validation is None:
        training, validation = holdout(training, recipe.validation_fraction, recipe.seed)
    execution = execution.for_process(process_state().is_main_process)
    return Trainer(
        model,
        recipe,
        task,
        training,
        validation,
        output,
        checkpoint_steps=execution.checkpoint_steps,
        skip_unreadable=execution.skip_unreadable,
        workers=splits["train"].workers if execution.workers is None else execution.workers,
        trackers=check_tracker(execution.tracker),
        progress=execution.progress,
        report=execution.report,
    )


def check_tracker(name: str) -> tuple[str, ...]:
    """The trackers of that name, none for ``none``; refuses one that is unknown or not installed."""
    if name == "none":
        return ()
    if name not in LOGGER_TYPE_TO_CLASS:
        raise UserError(f"Unknown tracker {name!r}; {did_you_mean(name, ['none', *LOGGER_TYPE_TO_CLASS])}")
    if name not in [tracker.value for tracker in get_available_trackers()]:
        raise UserError(f"The tracker {name} is not installed: pip install {name}.")
    return (name,)


def fit(trainer: Trainer) -> None:
    """Train the remaining epochs, reporting a line for each and logging it to the trackers."""
    recipe = trainer.recipe.to_dict()
    plain = {key: str(value) if isinstance(value, list) else value for key, value in recipe.items()}
    config = {key: value for key, value in plain.items() if value is not None}  # trackers take no lists
    trainer.accelerator.init_trackers(TRACKED, config)
    for record in trainer.fit():
        trainer.report(_line(record, trainer))
        parts = {"train": record.train, "val": record.val}
        figures = {f"{part}/{name}": value for part, each in parts.items() for name, value in each.items()}
        trainer.accelerator.log({"lr": record.lr, **figures}, record.epoch + 1)
    for each in trainer.accelerator.trackers:
        each.finish()


def _line(record: EpochRecord, trainer: Trainer) -> str:
    timed = trainer.times[-1]
    left = (trainer.epochs - record.epoch - 1) * timed.seconds
    return (
        f"{time.strftime('%H:%M:%S')}  epoch {record.epoch + 1:3d}/{trainer.epochs}  lr {record.lr:.4f}  "
        f"train {show_figures(record.train)}  held-out {show_figures(record.val)}  {_warning(record.dead)}"
        f"{timed.images_per_second:.0f} {trainer.task.samples}/s  about {left / 60:.0f} min left"
    )


def _warning(dead: dict[str, float] | None) -> str:
    """A note on dead units; empty if there are none."""
    return f"dead {show_dead(dead)}  " if dead and any(dead.values()) else ""
