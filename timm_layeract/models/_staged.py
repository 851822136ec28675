"""timm's methods of a network that is a row of stages, shared by our own architectures."""

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from timm.models import checkpoint_seq
from torch import Tensor, nn

from .._utils.timm_types import FeatureInfo
from ..compat.timm import feature_take_indices
from ._builder import RecordsActivations

__all__ = ["Staged"]


class Staged(RecordsActivations):
    """Mixin before nn.Module; the network has `feature_info`, `grad_checkpointing` and the head `fc`."""

    if TYPE_CHECKING:  # TorchScript reads annotations, and takes neither these nor any in __init__
        feature_info: list[FeatureInfo]
        grad_checkpointing: bool
        fc: nn.Module

    def feature_parts(self) -> list[Callable[[Tensor], Tensor]]:
        """What makes the features of `feature_info`, one after the other."""
        raise NotImplementedError

    def after_stages(self, x: Tensor) -> Tensor:
        """What `forward_features` does with the last of them."""
        return x

    @torch.jit.ignore
    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Recompute the stages in backward instead of keeping their activations."""
        self.grad_checkpointing = enable

    @torch.jit.ignore
    def get_classifier(self, name_only: bool = False) -> str | nn.Module:
        """The head, or its name."""
        return "fc" if name_only else self.fc

    def forward_intermediates(
        self,
        x: Tensor,
        indices: int | list[int] | None = None,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: str = "NCHW",
        intermediates_only: bool = False,
    ) -> list[Tensor] | tuple[Tensor, list[Tensor]]:
        """Features of the stages, as timm's method of that name.

        Args:
            x: Images ``(N, in_chans, H, W)``.
            indices: The last n if an int, those listed if a list, all if None.
            norm: Accepted for timm's interface; stages end in an activation, there is no norm to apply.
            stop_early: Do not run stages after the last one asked for.
            output_fmt: Only ``"NCHW"``.
            intermediates_only: Return the list alone.
        """
        if output_fmt != "NCHW":
            raise ValueError(f"output_fmt must be 'NCHW', got {output_fmt!r}.")
        take, last = feature_take_indices(len(self.feature_info), indices)
        parts, intermediates = self.feature_parts(), []
        for index, part in enumerate(parts[: last + 1] if stop_early else parts):
            recomputed = self.grad_checkpointing and isinstance(part, nn.Sequential)
            x = checkpoint_seq(part, x) if recomputed else part(x)
            if index in take:
                intermediates.append(x)
        return intermediates if intermediates_only else (self.after_stages(x), intermediates)
