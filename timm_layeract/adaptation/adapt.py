"""Adapting a trained network to another activation: swap, re-estimate BatchNorm's statistics, fine-tune, report.

Swapping alone destroys a network, as every BatchNorm behind an activation has statistics of what is no longer there;
without a gradient much comes back, and a few epochs on the labels and on what the network said before bring the rest. A
run's folder is that of a training, with report.md and report.png beside.
"""

import dataclasses
import time
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeVar

from torch import nn
from torch.optim.swa_utils import update_bn

from .._utils.names import dataset_name
from .._utils.progress import tracked
from .._utils.records import check_record
from ..checkpoints.manifest import HUB_FILE
from ..checkpoints.records import AdaptationRecord, Identity, Result, Scores
from ..checkpoints.save import save_pretrained, save_weights
from ..checkpoints.tables import NETWORKS
from ..compat.torch import BatchNorm
from ..data.classes import label_names
from ..errors import UserError
from ..registry import with_alpha
from ..training.batches import enough_for_batch_norm
from ..training.display import show_figures
from ..training.dry_run import described, estimate_run
from ..training.engine import Trainer
from ..training.folder import PICTURE, check_output
from ..training.options import ADAPTATION, Adaptation, Execution, RunOptions
from ..training.preprocessing import record_preprocessing
from ..training.recipe import Recipe, load_recipe
from ..training.results import write_result
from ..training.run import check_tracker, fit, running
from .noise import quick_set, under_noise
from .report import write_report
from .start import Splits, start_from

__all__ = ["adapt", "adapt_by_options", "adapt_dry_run"]

Options = TypeVar("Options", Adaptation, Execution)


def adapt(
    model: nn.Module | str,
    to: str = "lasilu",
    *,
    data: str | Splits,
    output: str | Path | None = None,
    recipe: str | None = None,
    data_name: str | None = None,
    **options: Any,
) -> nn.Module:
    """Turn a trained network into one with another activation.

    Args:
        model: timm's or SMP's, which is left as it is; or where it lies: a timm name with weights
            (``resnet50.a1_in1k``), ``hf-hub:ORG/NAME``, ``local-dir:FOLDER``, a training run's folder,
            ``ARCHITECTURE=FILE``, ``smp:FOLDER``.
        to: Registered activation: lasilu, lahardsilu, silu, ...
        data: Folder or Hub data set of the network's own classes, as for training; or its splits ``"train"`` and
            perhaps ``"test"``. A tenth of the training images is held out, as the recipe's seed says.
        output: Folder of the run, new or empty unless `resume`; None keeps nothing but the network.
        recipe: Recipe of the fine-tuning, one of ours or a YAML file; ``adapt``, or ``adapt_segmentation`` for a
            segmentation network, if None.
        data_name: What the data is called in results; the last part of `data` if None.
        **options: ``alpha``, of a LayerAct, instead of its own; fields of `training.options.Adaptation` (``distill``,
            ``unlabelled``, ``statistics_batches``) and `Execution` (``resume``, ``workers``, ``progress``, ...); and
            other values for keys of the recipe (``epochs``, 3 if left out, of which 0 stops after the statistics;
            ``lr``, ``batch_size``, ``seed``, ...).

    Returns:
        The new network, in evaluation mode: of the registered architecture where there is one.

    Raises:
        UserError: No such network, data, activation or option; nothing to swap; data with other classes; an activation
            with parameters of its own; `unlabelled` without `distill`; everything that training refuses.
    """

    def take(kind: type[Options]) -> Options:
        return kind(
            **{field.name: options.pop(field.name) for field in dataclasses.fields(kind) if field.name in options}
        )

    alpha = options.pop("alpha", None)
    options["to"] = to if alpha is None else with_alpha(to, alpha)
    adaptation, execution = take(Adaptation), take(Execution)
    called = data_name or (dataset_name(data) if isinstance(data, str) else "data")
    folder = None if output is None else Path(output)

    def choose(kind: str) -> Recipe:
        return load_recipe(recipe or ADAPTATION[kind], **options)

    return _adapt(model, adaptation, choose, data, called, folder, execution)


def adapt_by_options(
    model: str, adaptation: Adaptation, options: RunOptions, output: Path, execution: Execution
) -> nn.Module:
    """`adapt`, as the command line asks for it."""
    adaptation, choose = _chosen(adaptation, options)
    return _adapt(model, adaptation, choose, options.data, options.called, output, execution)


def adapt_dry_run(model: str, adaptation: Adaptation, options: RunOptions, execution: Execution) -> str:
    """What `adapt_by_options` would do, for a person to read: recipe, model, steps, and time without the noise."""
    adaptation, choose = _chosen(adaptation, options)
    start = start_from(model, adaptation, choose, options.data, options.called, execution)
    run = start.target, start.recipe, start.task, start.splits
    return described(f"{model} to {adaptation.to}", estimate_run(*run, forward=adaptation.statistics_batches))


def _chosen(adaptation: Adaptation, options: RunOptions) -> tuple[Adaptation, Callable[[str], Recipe]]:
    """The activation with the alpha that is asked for, and what gives the recipe for a task."""
    if options.alpha is not None:
        adaptation = dataclasses.replace(adaptation, to=with_alpha(adaptation.to, options.alpha))
    return adaptation, lambda kind: options.load_recipe({"classification": ADAPTATION[kind]})


def _adapt(
    model: nn.Module | str,
    adaptation: Adaptation,
    choose: Callable[[str], Recipe],
    data: str | Splits,
    data_name: str,
    output: Path | None,
    execution: Execution,
) -> nn.Module:
    """`adapt`, by the recipe that `choose` gives for a task."""
    if output is not None:
        check_output(output, execution.resume)
    check_tracker(execution.tracker)
    start = start_from(model, adaptation, choose, data, data_name, execution)
    with TemporaryDirectory() if output is None else nullcontext(output) as folder:
        run = start.target, start.recipe, start.task, start.splits
        with running(*run, Path(folder), start.identity, execution) as trainer:
            _run(trainer, start.teacher, start.identity, start.splits)
        return trainer.evaluated.eval().cpu()


def _run(trainer: Trainer, teacher: nn.Module, identity: Identity, splits: Splits) -> None:
    """Everything between the swap and the report."""
    result_path = trainer.output / "result.json"
    if result_path.exists():  # a finished run resumed: the test images have been read
        trainer.load_best()
        return
    stages, seconds = _statistics(trainer, teacher, identity["adaptation"]["statistics_batches"])
    trainer.resume()
    fit(trainer)
    last = list(stages.values())[-1]
    stages |= {f"epoch {record.epoch + 1}": record.val for record in trainer.history}
    if trainer.history:
        trainer.load_best()
    elif trainer.accelerator.is_main_process:
        save_weights(trainer.evaluated, trainer.best_weights)
    test = splits.get("test")
    noisy = quick_set(test or trainer.val_data)
    monitor = trainer.task.monitor
    networks = dict(zip(NETWORKS, (teacher, trainer.evaluated), strict=True))
    evaluate = {name: partial(_figure, trainer, network, monitor) for name, network in networks.items()}
    adaptation = {
        **identity["adaptation"],
        "stages": [{"stage": stage, **figures} for stage, figures in stages.items()],
        "test_before": trainer.evaluate(test, teacher) if test else None,
        "noise": {
            "images": len(noisy),
            "split": "test" if test else "held out",
            "without": {name: figure(noisy) for name, figure in evaluate.items()},
            "corruptions": under_noise(noisy, evaluate, trainer.progress),
        },
    }
    result: Result = {
        **identity,
        "adaptation": check_record(AdaptationRecord, adaptation, "adaptation"),
        "best_epoch": trainer.best.epoch + 1 if trainer.history else 0,
        "validation": trainer.best.val if trainer.history else last,
        "dead_units": trainer.best.dead if trainer.history else None,
        "test": {**trainer.evaluate(test), "images": len(test)} if test else None,
    }
    if trainer.accelerator.is_main_process:
        record_preprocessing(trainer.evaluated, trainer.recipe, splits["train"])
        _save(trainer, splits["train"].classes)
        trainer.task.illustrate(trainer.evaluated, trainer.val_data, trainer.output / PICTURE)
        write_result(trainer, result, statistics_seconds=round(seconds, 1))
        trainer.report(write_report(result, trainer.output))


def _statistics(trainer: Trainer, teacher: nn.Module, batches: int) -> tuple[dict[str, Scores], float]:
    """Re-estimate BatchNorm's statistics; returns the held-out figures of each stage, and the seconds it took."""
    networks = {"original": teacher, "swapped": trainer.evaluated}
    stages = {name: trainer.evaluate(trainer.val_data, each) for name, each in networks.items()}
    started = time.perf_counter()
    if not any(isinstance(module, BatchNorm) for module in trainer.unwrapped.modules()):
        trainer.report("The network has no BatchNorm: there are no statistics to re-estimate.")
    elif batches:
        inputs = trainer.first_inputs(batches)
        with enough_for_batch_norm():
            update_bn(tracked(inputs, "re-estimating statistics", trainer.progress, batches), trainer.unwrapped)
        if trainer.ema:
            trainer.ema.set(trainer.unwrapped)
    seconds = time.perf_counter() - started
    if batches:
        stages["re-estimated"] = trainer.evaluate(trainer.val_data)
    for stage, figures in stages.items():
        trainer.report(f"{stage:12}  held-out {show_figures(figures)}")
    return stages, seconds


def _figure(trainer: Trainer, network: nn.Module, monitor: str, split: Any) -> float:
    return trainer.evaluate(split, network)[monitor]


def _save(trainer: Trainer, classes: tuple[str, ...]) -> None:
    """Save the network in the Hub's layout, or, where no config can describe it, its weights alone."""
    network, folder = trainer.evaluated, trainer.output / "model"
    try:
        save_pretrained(network, folder, classes or label_names(network))
    except UserError as error:
        save_weights(network, folder / HUB_FILE)
        trainer.report(
            f"{error} Its weights are in {folder / HUB_FILE}, with the record of its activations: load them into the "
            f"network after swap_activations."
        )
