"""What an adaptation starts from: the network and its successor, the recipe for its task, the data."""

import dataclasses
from collections.abc import Callable, Mapping
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import torch
from accelerate.utils import set_seed
from torch import nn

from .._utils.timm_types import config_of
from ..checkpoints.records import Identity
from ..checkpoints.save import is_smp
from ..data.classes import check_classes, label_names
from ..data.splits import Split
from ..errors import UserError
from ..models.text_rcnn import TextRCNN
from ..models.unet_layeract import UNet, UNetPlusPlus
from ..networks import load_network
from ..training.identity import identify
from ..training.options import ADAPTATION, Adaptation, Execution
from ..training.processes import process_state
from ..training.recipe import Recipe
from ..training.run import open_splits
from ..training.tasks import TASKS, Task
from .distillation import Taught
from .target import target_network

__all__ = ["AdaptationStart", "Splits", "start_from"]

Splits = Mapping[str, Split]


@dataclass(frozen=True)
class AdaptationStart:
    """What an adaptation starts from.

    Attributes:
        teacher: The network as it was, in evaluation mode.
        target: Its successor, with the other activation.
        recipe: Recipe of the fine-tuning.
        task: Task of the network.
        splits: The data.
        identity: What run.json holds.
    """

    teacher: nn.Module
    target: nn.Module
    recipe: Recipe
    task: Task
    splits: Splits
    identity: Identity


def start_from(
    model: nn.Module | str,
    adaptation: Adaptation,
    choose: Callable[[str], Recipe],
    data: str | Splits,
    data_name: str,
    execution: Execution,
) -> AdaptationStart:
    """What `adapt` starts from, by the recipe that `choose` gives for a task; the other arguments as there."""
    source = _described(load_network(model) if isinstance(model, str) else model)
    target = target_network(source, adaptation.to)
    recipe = _recipe(source, choose)
    splits: Any = _splits(data, recipe, source, execution, labelled=not adaptation.unlabelled)
    if not adaptation.unlabelled:
        # the names that a network not loaded just now has may be another checkpoint's
        way_out = "fine-tune it on these (layeract finetune), or adapt it without labels (--unlabelled)"
        check_classes(splits["train"].classes, source, way_out=way_out, named=isinstance(model, str))
    started_from = model if isinstance(model, str) else config_of(source)["architecture"]
    identity = identify(target, recipe, splits, data_name, started_from)
    identity["adaptation"] = dataclasses.asdict(adaptation)  # type: ignore[typeddict-item]
    set_seed(recipe.seed)
    teacher = deepcopy(source).eval().to(process_state().device)
    if recipe.channels_last:
        teacher = teacher.to(memory_format=torch.channels_last)
    task: Task = TASKS[recipe.task](target, recipe, splits["train"])
    if adaptation.distill:
        task = Taught(task, teacher, recipe, labelled=not adaptation.unlabelled)
    return AdaptationStart(teacher, target, recipe, task, splits, identity)


def _recipe(source: nn.Module, choose: Callable[[str], Recipe]) -> Recipe:
    """The recipe for a network's task."""
    kind = "segmentation" if _is_dense(source) else "classification"
    recipe = choose(kind)
    if recipe.task != kind:
        raise UserError(
            f"Recipe {recipe.name} is for {recipe.task}, the network is one of {kind}: try {ADAPTATION[kind]}."
        )
    if kind == "segmentation" and int(source.num_classes) > 1 and recipe.masks is None:  # type: ignore[arg-type]
        names = recipe.class_names or label_names(source) or None
        return recipe.replace(masks="classes", class_names=names)
    return recipe


def _splits(data: str | Splits, recipe: Recipe, source: nn.Module, execution: Execution, labelled: bool) -> Splits:
    if not isinstance(data, str):
        return data
    return open_splits(data, recipe, config_of(source), execution.progress, labelled)


def _described(model: nn.Module) -> nn.Module:
    """A network that says its architecture, mean and deviation, as timm's do."""
    if isinstance(model, TextRCNN):
        raise UserError(
            "Networks for texts are not adapted: train one that has the activation, layeract train --task text."
        )
    if is_smp(model):
        from ..smp.by_name import like_timm

        network: nn.Module = like_timm(model)
        return network
    if "architecture" not in config_of(model):
        raise UserError(f"{type(model).__name__} was made neither by timm nor by SMP: swap_activations, then train it.")
    return model


def _is_dense(model: nn.Module) -> bool:
    """Whether a network gives a map, not a class."""
    return isinstance(model, UNet | UNetPlusPlus) or is_smp(model)
