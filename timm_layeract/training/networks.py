"""Networks by the names that training takes: timm's, and SMP's behind ``smp:``."""

from typing import Any

import timm
import torch

from .._utils.names import is_smp
from ..errors import UserError, did_you_mean

__all__ = ["check_model_name", "create_network", "describe"]


def check_model_name(name: str) -> None:
    """Refuse a model name that timm does not know, with close names."""
    if ":" not in name and not timm.is_model(name):
        raise UserError(f"Unknown model {name!r}; {did_you_mean(name.split('.')[0], timm.list_models())}")


def describe(name: str) -> tuple[str, tuple[int, int]]:
    """Architecture of a model by name, and (H, W) that it is made for; (0, 0) where its data keeps its own sizes."""
    if is_smp(name):
        return name, (0, 0)
    try:
        with torch.device("meta"):  # without memory
            config: dict[str, Any] = timm.create_model(name).pretrained_cfg  # type: ignore[assignment]
    except OSError as error:
        raise UserError(f"{name} cannot be read: {str(error).splitlines()[0]}") from error
    height, width = config["input_size"][1:]
    return config["architecture"], (height, width)


def create_network(name: str, pretrained: bool, num_classes: int, **options: Any) -> torch.nn.Module:
    """timm's `create_model`, or SMP's of a name with ``smp:``; a missing checkpoint is reported in one line."""
    if is_smp(name):
        from ..smp.by_name import create_by_name, load_by_name

        return load_by_name(name) if pretrained else create_by_name(name, num_classes)
    if pretrained and ":" not in name and not timm.models.is_model_pretrained(name):
        with_weights = timm.list_models("*lasilu*", pretrained=True)
        raise UserError(f"{name} has no pretrained weights; models of ours that have: {', '.join(with_weights)}.")
    return timm.create_model(name, pretrained=pretrained, num_classes=num_classes, **options)
