"""A run from start to result: model and data by name, an output folder, resuming, the exported model and its figures.

A run's folder holds run.json (what it is), log.jsonl (a line an epoch), checkpoints/ and best.safetensors while it
goes; at its end also model/ (Hub layout), result.json, which is the same when the run is repeated on the same machine,
environment.json (device, versions, time taken) and curve.png; of segmentation also examples.png, held-out images with
their masks; of texts also model/tokenizer.json, the vocabulary.
"""

import json
import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from accelerate.tracking import LOGGER_TYPE_TO_CLASS, get_available_trackers
from accelerate.utils import set_seed

from .._utils.files import surroundings, write_json
from ..checkpoints.fingerprint import activation_fingerprint
from ..checkpoints.save import save_pretrained
from ..data.sources import Split, holdout
from ..errors import UserError, did_you_mean
from .curves import plot_curves
from .engine import EpochRecord, Trainer, process_state
from .folder import PICTURE, check_output, own_folder
from .networks import check_model_name, create_network, describe
from .progress import show_dead, show_figures
from .recipe import CHECKPOINT_STEPS, Recipe
from .tasks.classification import Classification
from .tasks.segmentation import Segmentation
from .tasks.text import TextClassification, check_reads_text

__all__ = [
    "TASKS",
    "Report",
    "check_tracker",
    "fit",
    "identify",
    "open_splits",
    "prepare",
    "silent",
    "train",
    "train_on",
    "write_result",
]

Report = Callable[[str], None]

# By a recipe's `task`.
TASKS: dict[str, Any] = {"classification": Classification, "segmentation": Segmentation, "text": TextClassification}


def train(
    model_name: str,
    recipe: Recipe,
    data: str,
    output: str | Path,
    *,
    data_name: str | None = None,
    pretrained: bool = False,
    num_classes: int | None = None,
    progress: bool = True,
    **options: Any,
) -> dict[str, Any]:
    """Train a registered model on a data set by name; returns what result.json holds.

    Args:
        model_name: timm name, ``arch`` or ``arch.tag``; also ``hf-hub:`` and ``local-dir:``; and of SMP's networks
            ``smp:ARCHITECTURE/ENCODER``, or ``smp:FOLDER`` of a pretrained one.
        recipe: What to do.
        data: Parquet folder, image folder or Hub data set id.
        output: Folder of the run; must be new or empty unless `resume`.
        data_name: What the data is called in results; the last part of `data` if None.
        pretrained: Start from the model's weights, with a new head where the classes differ in number.
        num_classes: Outputs of the head; the data's number of classes if None.
        progress: Show progress bars.
        **options: As of `train_on`.

    Raises:
        UserError: Unknown model, unreadable data, labels outside the head, used output folder, other run to resume,
            loss not finite.
    """
    check_output(Path(output), options.get("resume", False))
    model, splits = prepare(model_name, recipe, data, pretrained, num_classes, progress)
    return train_on(
        model,
        recipe,
        splits["train"],
        splits.get("test"),
        output,
        data_name=data_name or Path(data).name,
        started_from=model_name if pretrained else None,
        progress=progress,
        **options,
    )


def prepare(
    model_name: str, recipe: Recipe, data: str, pretrained: bool, num_classes: int | None, progress: bool
) -> tuple[torch.nn.Module, dict[str, Split]]:
    """The network as its seed initialises it, and the splits of a data set; arguments as of `train`."""
    check_model_name(model_name)
    _check_length(recipe)
    task = TASKS[recipe.task]
    architecture, input_size = describe(model_name)
    check_reads_text(architecture, recipe, pretrained)
    size = recipe.image_size or input_size
    splits = open_splits(data, recipe, size, progress)
    set_seed(recipe.seed)
    classes, more = num_classes or len(splits["train"].classes), task.network_args(splits["train"])
    return create_network(model_name, pretrained, classes, **more), splits


def open_splits(
    data: str, recipe: Recipe, size: tuple[int, int], progress: bool, labelled: bool = True
) -> dict[str, Split]:
    """The splits of a data set by name, as the recipe's task reads them; see `NamedTask.splits`."""
    state = process_state()
    with state.main_process_first():  # the first to read fills the cache that the others read
        return TASKS[recipe.task].splits(data, recipe, size, progress and state.is_main_process, labelled)


def train_on(
    model: torch.nn.Module,
    recipe: Recipe,
    train_split: Split,
    test_split: Split | None,
    output: str | Path,
    *,
    data_name: str,
    started_from: str | None = None,
    resume: bool = False,
    tracker: str = "none",
    checkpoint_steps: int = CHECKPOINT_STEPS,
    workers: int | None = None,
    progress: bool = True,
    report: Report = print,
) -> dict[str, Any]:
    """Train a network on splits that are open already.

    Args:
        model: timm model.
        recipe: What to do.
        train_split: A part of it is held out to choose the best epoch.
        test_split: Read once, at the end; None for none.
        output: Folder of the run; must be new or empty unless `resume`.
        data_name: What the data is called in results.
        started_from: Names the weights that the model came with.
        resume: Continue the run in `output` after its newest checkpoint.
        tracker: ``none``, or one of accelerate's trackers (``tensorboard``, ``trackio``, ``wandb``, ...).
        checkpoint_steps: Optimizer steps between checkpoints within an epoch.
        workers: Processes that read data; none for data in memory, else as many as there are cores, if None.
        progress: Show progress bars.
        report: Called with lines for a person to read.
    """
    output = Path(output)
    check_output(output, resume)
    state = process_state()
    say = report if state.is_main_process else silent
    training, validation = holdout(train_split, recipe.validation_fraction, recipe.seed)
    _check_length(recipe)
    splits = {"train": train_split, **({"test": test_split} if test_split else {})}
    identity = identify(model, recipe, splits, data_name, started_from)
    task = TASKS[recipe.task](model, recipe, train_split)
    trainer = Trainer(
        model,
        recipe,
        task,
        training,
        validation,
        output,
        checkpoint_steps=checkpoint_steps,
        workers=train_split.workers if workers is None else workers,
        trackers=check_tracker(tracker),
        progress=progress,
        report=say,
    )
    with own_folder(output, identity, state.is_main_process):
        state.wait_for_everyone()
        trainer.resume()
        fit(trainer)
        result = _finish(trainer, identity, test_split)
        if state.is_main_process:
            save_pretrained(trainer.evaluated, output / "model", train_split.classes)
            task.save(output / "model")
            trainer.task.illustrate(trainer.evaluated, validation, output / PICTURE)
            plot_curves(trainer.history, trainer.best.epoch, trainer.task.monitor, output / "curve.png")
            say(_summary(result, output))
        state.wait_for_everyone()
    return result


def identify(
    model: torch.nn.Module,
    recipe: Recipe,
    splits: Mapping[str, Any],
    data_name: str,
    started_from: str | None,
) -> dict[str, Any]:
    """What makes a run this one and no other: run.json, and the head of result.json.

    Args:
        model: Network with a `pretrained_cfg`.
        recipe: What is done.
        splits: ``"train"``, the held-out images included, and perhaps ``"test"``.
        data_name: What the data is called in results.
        started_from: Names the weights that the model came with.
    """
    train, test = splits["train"], splits.get("test")
    held = round(len(train) * recipe.validation_fraction)
    return {
        "model": model.pretrained_cfg["architecture"],  # type: ignore[index]
        "activations": activation_fingerprint(model),
        "started_from": started_from,
        "recipe": recipe.to_dict(),
        "monitor": TASKS[recipe.task].monitor,
        "processes": process_state().num_processes,
        "data": {
            "name": data_name,
            "train_images": len(train) - held,
            "validation_images": held,
            "test_images": len(test) if test else 0,
            "train_sha256": train.sha256(),
            "test_sha256": test.sha256() if test else None,
        },
    }


def _check_length(recipe: Recipe) -> None:
    if recipe.epochs == 0:
        raise UserError(f"Recipe {recipe.name} trains for 0 epochs; give more.")


def check_tracker(name: str) -> tuple[str, ...]:
    """The trackers that a name asks for, none for ``none``; refuses one that accelerate does not know or find."""
    if name == "none":
        return ()
    if name not in LOGGER_TYPE_TO_CLASS:
        raise UserError(f"Unknown tracker {name!r}; {did_you_mean(name, ['none', *LOGGER_TYPE_TO_CLASS])}")
    if name not in [tracker.value for tracker in get_available_trackers()]:
        raise UserError(f"The tracker {name} is not installed: pip install {name}.")
    return (name,)


def _finish(trainer: Trainer, identity: dict[str, Any], test_split: Split | None) -> dict[str, Any]:
    """Read the test images, once, with the best epoch's weights; writes result.json and environment.json."""
    trainer.load_best()
    path = trainer.output / "result.json"
    if path.exists():  # a finished run resumed: the test images have been read
        return json.loads(path.read_text())
    best = trainer.best
    test = {**trainer.evaluate(test_split), "images": len(test_split)} if test_split else None
    result = {**identity, "best_epoch": best.epoch + 1, "validation": best.val, "dead_units": best.dead, "test": test}
    if trainer.accelerator.is_main_process:
        write_result(trainer, result)
    return result


def fit(trainer: Trainer) -> None:
    """Train the epochs that are left, with a line for a person and the trackers' entries for each."""
    recipe = trainer.recipe.to_dict()
    plain = {key: str(value) if isinstance(value, list) else value for key, value in recipe.items()}
    config = {key: value for key, value in plain.items() if value is not None}  # trackers take no lists
    trainer.accelerator.init_trackers("timm_layeract", config)
    for record in trainer.fit():
        trainer.report(_line(record, trainer))
        parts = {"train": record.train, "val": record.val}
        figures = {f"{part}/{name}": value for part, each in parts.items() for name, value in each.items()}
        trainer.accelerator.log({"lr": record.lr, **figures}, record.epoch + 1)
    for each in trainer.accelerator.trackers:
        each.finish()


def write_result(trainer: Trainer, result: dict[str, Any], **measured: Any) -> None:
    """Write environment.json, with what else was measured of this machine, then result.json."""
    speeds = [epoch.images_per_second for epoch in trainer.times]
    environment = {
        "train_seconds": round(sum(epoch.seconds for epoch in trainer.times)),
        "images_per_second": round(statistics.median(speeds)) if speeds else 0,
        **measured,
        "threads": torch.get_num_threads(),
        **surroundings(trainer.accelerator.device, ("timm-layeract", "torch", "timm", "accelerate", "datasets")),
    }
    write_json(trainer.output / "environment.json", environment)
    write_json(trainer.output / "result.json", result)


def _line(record: EpochRecord, trainer: Trainer) -> str:
    timed = trainer.times[-1]
    left = (trainer.epochs - record.epoch - 1) * timed.seconds
    return (
        f"{time.strftime('%H:%M:%S')}  epoch {record.epoch + 1:3d}/{trainer.epochs}  lr {record.lr:.4f}  "
        f"train {show_figures(record.train)}  held-out {show_figures(record.val)}  {_warning(record.dead)}"
        f"{timed.images_per_second:.0f} {trainer.task.samples}/s  about {left / 60:.0f} min left"
    )


def _warning(dead: dict[str, float] | None) -> str:
    """What to say of dead units: nothing where there are none."""
    return f"dead {show_dead(dead)}  " if dead and any(dead.values()) else ""


def _summary(result: dict[str, Any], output: Path) -> str:
    figures = {name: value for name, value in (result["test"] or {}).items() if name != "images"}
    test = f", test {show_figures(figures)}" if figures else ", no test split"
    dead = result["dead_units"]
    warning = ""
    if dead and any(dead.values()):
        warning = (
            f"\nWarning: {show_dead(dead)} are dead on held-out images (they never respond, or no gradient reaches "
            f"them): look at initialisation and learning rate before comparing this network with another."
        )
    return (
        f"best epoch {result['best_epoch']}: held-out {show_figures(result['validation'])}{test}; "
        f"model in {output / 'model'}{warning}"
    )


def silent(_: str) -> None:
    """Say nothing: a process that is not the main one."""
