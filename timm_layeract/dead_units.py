"""Dead units of any network: channels that give the same whatever comes in, and parameters that no gradient reaches.

A ReLU that receives 0 or less from every sample passes nothing on and learns nothing. A few such channels come about in
training; a network that has them from its start is built wrongly.
"""

from collections.abc import Callable, Iterable
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from .checkpoints.fingerprint import activation_fingerprint
from .compat.torch import BatchNorm
from .watch import watched_copy

__all__ = ["DeadUnits", "dead_units"]

_FEATURES_LAST = (nn.Linear, nn.LayerNorm)  # whose outputs have their channels in the last dimension


@dataclass(frozen=True)
class DeadUnits:
    """What does nothing in a network, on the samples that were looked at.

    Attributes:
        silent: Path of an activation -> which of its channels put out one and the same value, bool ``(C,)``.
        unreached: Name of a parameter -> which of its elements have a gradient of exactly 0, bool of its shape.
    """

    silent: dict[str, Tensor]
    unreached: dict[str, Tensor]

    def summarise(self) -> dict[str, float]:
        """Percent of ``channels`` that are silent (if activations are modules) and of ``parameters`` unreached."""
        found = {"channels": self.silent, "parameters": self.unreached}
        return {name: _percent(units) for name, units in found.items() if units}


def dead_units(
    network: nn.Module, batches: Iterable[tuple[Tensor, Any]], loss: Callable[[Any, Any], Tensor]
) -> DeadUnits:
    """Look for dead units in a copy of a network; the network and the random numbers stay as they are.

    The copy is in training mode, so that outputs for training alone take part, but its BatchNorms use their running
    statistics: no batch is too small, and no process waits for another.

    Args:
        network: Any.
        batches: Inputs and targets; a few hundred samples in all tell.
        loss: Loss of outputs and targets, as in training.
    """
    lowest: dict[str, Tensor] = {}
    highest: dict[str, Tensor] = {}
    features_last = False

    def note_layout(module: nn.Module, *_: Any) -> None:
        nonlocal features_last
        features_last = isinstance(module, _FEATURES_LAST)

    def note_range(path: str, module: nn.Module, inputs: Tensor, output: Tensor) -> None:
        values = output.detach().movedim(-1 if features_last else 1, 0).flatten(1)
        low, high = values.amin(1), values.amax(1)
        lowest[path] = torch.minimum(lowest.get(path, low), low)
        highest[path] = torch.maximum(highest.get(path, high), high)

    copied = watched_copy(network, note_range) if activation_fingerprint(network) else deepcopy(network)
    copied.train()
    for module in copied.modules():
        if isinstance(module, BatchNorm):
            module.eval()
        if module._parameters and not isinstance(module, nn.PReLU):
            module.register_forward_hook(note_layout)
    # rows of an embedding that no sample asks for are not dead
    rows = {f"{path}.weight" for path, module in copied.named_modules() if isinstance(module, nn.Embedding)}
    learning = {name: each for name, each in copied.named_parameters() if each.requires_grad and name not in rows}
    reached = {name: torch.zeros_like(each, dtype=torch.bool) for name, each in learning.items()}
    device = next(iter(learning.values())).device if learning else torch.device("cpu")
    with torch.random.fork_rng([device] if device.type != "cpu" else [], device_type=device.type), torch.enable_grad():
        for inputs, targets in batches:
            gradients = torch.autograd.grad(loss(copied(inputs), targets), list(learning.values()), allow_unused=True)
            for name, gradient in zip(learning, gradients, strict=True):
                if gradient is not None:
                    reached[name] |= gradient != 0
    return DeadUnits(
        {path: (lowest[path] == highest[path]).cpu() for path in lowest},
        {name: ~each.cpu() for name, each in reached.items()},
    )


def _percent(units: dict[str, Tensor]) -> float:
    return 100 * sum(int(each.sum()) for each in units.values()) / sum(each.numel() for each in units.values())
