"""A run from start to result: model and data by name, an output folder, resuming, the exported model and its figures.

Imports timm, `checkpoints`, `data` and the `engine`. A run's folder holds run.json (what it is), log.jsonl (a line an
epoch), checkpoint/ and best.safetensors while it goes, and model/ (Hub layout) and result.json at its end.
"""

import json
import platform
import time
from collections.abc import Callable
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import timm
import torch
from accelerate.utils import set_seed

from ..checkpoints import embed_checkpoint, save_pretrained
from ..data.sources import ImageSplit, holdout, load_splits
from ..errors import UserError, did_you_mean
from .engine import EpochRecord, Trainer, process_state
from .recipe import Recipe

__all__ = ["create_network", "train", "train_on"]

Report = Callable[[str], None]


def train(
    model_name: str,
    recipe: Recipe,
    data: str,
    output: str | Path,
    *,
    data_name: str | None = None,
    pretrained: bool = False,
    num_classes: int | None = None,
    resume: bool = False,
    embed: str | None = None,
    progress: bool = True,
    report: Report = print,
) -> dict[str, Any]:
    """Train a registered model on a data set by name; returns what result.json holds.

    Args:
        model_name: timm name, ``arch`` or ``arch.tag``; also ``hf-hub:`` and ``local-dir:``.
        recipe: What to do.
        data: Parquet folder, image folder or Hub data set id.
        output: Folder of the run; must be new or empty unless `resume`.
        data_name: What the data is called in results; the last part of `data` if None.
        pretrained: Start from the model's weights, with a new head where the classes differ in number.
        num_classes: Outputs of the head; the data's number of classes if None.
        resume: Continue the run in `output` after its last whole epoch.
        embed: Also ship the weights with the package, under this tag.
        progress: Show progress bars.
        report: Called with lines for a person to read.

    Raises:
        UserError: Unknown model, unreadable data, labels outside the head, used output folder, other run to resume,
            loss not finite.
    """
    check_model_name(model_name)
    output = Path(output)
    check_output(output, resume)
    height, width = recipe.image_size or timm.get_pretrained_cfg(model_name).input_size[1:]  # type: ignore[union-attr]
    state = process_state()
    with state.main_process_first():  # the first to read fills the cache that the others read
        splits = load_splits(data, (height, width), progress=progress and state.is_main_process)
    classes = num_classes or len(splits["train"].classes)
    set_seed(recipe.seed)
    model = create_network(model_name, pretrained, classes)
    return train_on(
        model,
        recipe,
        splits["train"],
        splits.get("test"),
        output,
        data_name=data_name or Path(data).name,
        started_from=model_name if pretrained else None,
        resume=resume,
        embed=embed,
        progress=progress,
        report=report,
    )


def train_on(
    model: torch.nn.Module,
    recipe: Recipe,
    train_split: ImageSplit,
    test_split: ImageSplit | None,
    output: str | Path,
    *,
    data_name: str,
    started_from: str | None = None,
    resume: bool = False,
    embed: str | None = None,
    progress: bool = True,
    report: Report = print,
) -> dict[str, Any]:
    """Train a network on splits in memory; arguments as `train`, `started_from` names the weights it came with."""
    output = Path(output)
    check_output(output, resume)
    state = process_state()
    say = report if state.is_main_process else _silent
    training, validation = holdout(train_split, recipe.validation_fraction, recipe.seed)
    identity = {
        "model": model.pretrained_cfg["architecture"],  # type: ignore[index]
        "started_from": started_from,
        "recipe": recipe.to_dict(),
        "data": {
            "name": data_name,
            "train_images": len(training),
            "validation_images": len(validation),
            "test_images": len(test_split) if test_split else 0,
            "train_sha256": train_split.sha256(),
            "test_sha256": test_split.sha256() if test_split else None,
        },
    }
    trainer = Trainer(model, recipe, training, validation, output, progress)
    if state.is_main_process:
        _claim(output, identity)
    state.wait_for_everyone()
    trainer.resume()
    for record in trainer.fit():
        say(_line(record, recipe.epochs))
    result_path = output / "result.json"
    if result_path.exists():  # a finished run resumed: the test images have been read, once
        result = json.loads(result_path.read_text())
        trainer.load_best()
    else:
        result = _finish(trainer, identity, test_split)
    if state.is_main_process:
        network = trainer.evaluated
        save_pretrained(network, output / "model", train_split.classes)
        _write_json(result_path, result)
        say(_summary(result, output))
        if embed:
            name = embed_checkpoint(network, embed, {**result, "label_names": list(train_split.classes)})
            say(f"embedded as {name}")
    state.wait_for_everyone()
    return result


def check_model_name(name: str) -> None:
    """Refuse a model name that timm does not know, with close names."""
    if ":" not in name and not timm.is_model(name):
        raise UserError(f"Unknown model {name!r}; {did_you_mean(name.split('.')[0], timm.list_models())}")


def check_output(output: Path, resume: bool) -> None:
    """Refuse to write into a folder that holds something else."""
    if output.exists() and not output.is_dir():
        raise UserError(f"{output} is a file; give --output a folder.")
    if not resume and output.is_dir() and any(output.iterdir()):
        raise UserError(f"{output} is not empty; give --resume to continue its run, or another --output.")


def create_network(name: str, pretrained: bool, num_classes: int) -> torch.nn.Module:
    """timm's `create_model`, with a missing checkpoint reported in one line."""
    if pretrained and ":" not in name and not timm.models.is_model_pretrained(name):
        with_weights = timm.list_models("*lasilu*", pretrained=True)
        raise UserError(f"{name} has no pretrained weights; models of ours that have: {', '.join(with_weights)}.")
    return timm.create_model(name, pretrained=pretrained, num_classes=num_classes)


def _finish(trainer: Trainer, identity: dict[str, Any], test_split: ImageSplit | None) -> dict[str, Any]:
    """Read the test images, once, with the best epoch's weights."""
    trainer.load_best()
    history, best = trainer.history, trainer.best
    return {
        **identity,
        "best_epoch": best.epoch + 1,
        "validation": {"top1": best.val_top1, "loss": best.val_loss},
        "test": trainer.evaluate(test_split) if test_split else None,
        "train_seconds": sum(record.seconds for record in history),
        "device": str(trainer.accelerator.device),
        "processes": trainer.accelerator.num_processes,
        "threads": torch.get_num_threads(),
        "date": datetime.now(UTC).date().isoformat(),
        "versions": {
            "python": platform.python_version(),
            **{name: version(name) for name in ("timm-layeract", "torch", "timm", "accelerate", "datasets")},
        },
    }


def _claim(output: Path, identity: dict[str, Any]) -> None:
    """Make the folder this run's, or refuse one that belongs to another run."""
    path = output / "run.json"
    if path.exists():
        other = json.loads(path.read_text())
        flat_other, flat_own = _flatten(other), _flatten(identity)
        differing = [key for key in {**flat_own, **flat_other} if flat_own.get(key) != flat_other.get(key)]
        if differing:
            shown = "; ".join(f"{key}: {flat_other.get(key)} there, {flat_own.get(key)} here" for key in differing[:4])
            raise UserError(f"{output} holds another run ({shown}); give another --output.")
    else:
        output.mkdir(parents=True, exist_ok=True)
        _write_json(path, identity)


def _flatten(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        flat.update(_flatten(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value})
    return flat


def _write_json(path: Path, value: dict[str, Any]) -> None:
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(value, indent=2) + "\n")
    partial.replace(path)


def _line(record: EpochRecord, epochs: int) -> str:
    left = (epochs - record.epoch - 1) * record.seconds
    return (
        f"{time.strftime('%H:%M:%S')}  epoch {record.epoch + 1:3d}/{epochs}  lr {record.lr:.4f}  "
        f"train loss {record.train_loss:.4f} top-1 {record.train_top1:5.2f} %  "
        f"held-out loss {record.val_loss:.4f} top-1 {record.val_top1:5.2f} %  "
        f"{record.images_per_second:.0f} img/s  about {left / 60:.0f} min left"
    )


def _summary(result: dict[str, Any], output: Path) -> str:
    test = f", test top-1 {result['test']['top1']:.2f} %" if result["test"] else ", no test split"
    return (
        f"best epoch {result['best_epoch']}: held-out top-1 {result['validation']['top1']:.2f} %{test}; "
        f"model in {output / 'model'}"
    )


def _silent(_: str) -> None:
    """Say nothing: a process that is not the main one."""
