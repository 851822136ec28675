"""Optimizer and learning-rate schedule of a recipe."""

import math

from timm.optim import create_optimizer_v2
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from .recipe import Recipe

__all__ = ["create_optimizer", "create_schedule"]


def create_optimizer(model: nn.Module, recipe: Recipe) -> Optimizer:
    """timm's optimizer factory with the recipe's values (timm calls SGD without Nesterov ``momentum``)."""
    name = "momentum" if recipe.optimizer == "sgd" and not recipe.nesterov else recipe.optimizer
    return create_optimizer_v2(
        model,
        opt=name,
        lr=recipe.lr,
        momentum=recipe.momentum,
        weight_decay=recipe.weight_decay,
        filter_bias_and_bn=not recipe.decay_norm_and_bias,
    )


def lr_factor(recipe: Recipe, fraction: float) -> float:
    """Learning rate at a fraction of the run, relative to the recipe's peak."""
    if recipe.schedule == "multistep":
        return 0.1 ** sum(fraction >= milestone for milestone in recipe.milestones)
    if fraction < recipe.warmup:
        return fraction / recipe.warmup
    remaining = (1 - fraction) / (1 - recipe.warmup)
    return remaining if recipe.schedule == "one-cycle" else 0.5 * (1 - math.cos(math.pi * remaining))


def create_schedule(optimizer: Optimizer, recipe: Recipe, total_steps: int) -> LambdaLR:
    """Schedule to be stepped once after each optimizer step."""
    # Half a step in, so that neither the first nor the last step is lost to a rate of exactly 0.
    return LambdaLR(optimizer, lambda step: lr_factor(recipe, min((step + 0.5) / total_steps, 1.0)))
