"""A linear classifier ``fc`` behind `num_features` numbers, as timm asks for it and replaces it."""

import torch
from torch import nn

from .._utils.timm_types import DeviceAndDtype
from ..compat.timm import get_device_dtype

__all__ = ["LinearHead"]


class LinearHead(nn.Module):
    """Mixin of networks whose head is one linear layer."""

    num_classes: int
    num_features: int

    def _set_head(self, num_classes: int, dd: DeviceAndDtype) -> None:
        """Put a head of `num_classes` (0 for none) in place; `dd` holds device and dtype."""
        self.num_classes = num_classes
        self.fc = nn.Linear(self.num_features, num_classes, **dd) if num_classes > 0 else nn.Identity()

    @torch.jit.ignore
    def get_classifier(self, name_only: bool = False) -> str | nn.Module:
        """The head, or its name."""
        return "fc" if name_only else self.fc

    def reset_classifier(self, num_classes: int) -> None:
        """Put a new head of `num_classes` (0 for none) in place."""
        self._set_head(num_classes, get_device_dtype(self))
        self.fc.train(self.training)
