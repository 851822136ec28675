"""How a run ends: the test split read once, result.json, environment.json, and a line for a person."""

import statistics
from pathlib import Path

import torch

from .._utils.files import surroundings, write_json
from .._utils.records import check_record, read_record
from ..checkpoints.records import Identity, Result
from ..data.splits import Split
from .display import show_classes, show_dead, show_figures
from .engine import Trainer

__all__ = ["finish", "summary", "write_result"]


def finish(trainer: Trainer, identity: Identity, test_split: Split | None) -> Result:
    """Read the test images, once, with the best epoch's weights; writes result.json and environment.json."""
    trainer.load_best()
    path = trainer.output / "result.json"
    if path.exists():  # a finished run resumed: the test images have been read
        return read_record(Result, path)
    best = trainer.best
    test = {**trainer.evaluate(test_split), "images": len(test_split)} if test_split else None
    figures = {"best_epoch": best.epoch + 1, "validation": best.val, "dead_units": best.dead, "test": test}
    result = check_record(Result, {**identity, **figures}, str(path))
    if trainer.accelerator.is_main_process:
        write_result(trainer, result)
    return result


def write_result(trainer: Trainer, result: Result, **measured: float) -> None:
    """Write environment.json, with further measurements of this machine, then result.json."""
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


def summary(result: Result, output: Path) -> str:
    """What a run came to, for a person to read."""
    figures = {name: value for name, value in (result["test"] or {}).items() if name != "images"}
    test = f", test {show_figures(figures)}" if figures else ", no test split"
    by_class = show_classes(figures or result["validation"] or {})
    classes = f"\nIoU by class: {by_class}" if by_class else ""
    dead = result["dead_units"]
    warning = ""
    if dead and any(dead.values()):
        warning = (
            f"\nWarning: {show_dead(dead)} are dead on held-out images (they never respond, or no gradient reaches "
            f"them): look at initialisation and learning rate before comparing this network with another."
        )
    return (
        f"best epoch {result['best_epoch']}: held-out {show_figures(result['validation'] or {})}{test}; "
        f"model in {output / 'model'}{classes}{warning}"
    )
