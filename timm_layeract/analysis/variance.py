"""rho and rho' of every activation of a network in training, their score, and the mean of the weights.

Yuan & Zhu, "Normalized activation function", equations 5, 6, 22 and figure 4.
"""

import math
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from ..checkpoints.fingerprint import activation_types
from ..definition.normalized import act_moments, statistics_of
from ..errors import UserError
from ..layers.batch_statistics import computed_again
from ..layers.normalized_act import NormalizedAct, is_elementwise

__all__ = ["VarianceRecorder", "gradient_score", "mean_weights"]


class VarianceRecorder:
    """Records rho and rho' of every elementwise activation, and the mean weights, at each training step of its block.

    Those of a normalized activation are of the function that it is at that step, normalization included. An activation
    that is no elementwise function (LayerAct, softmax) has none and is left out. Recording costs about as much as the
    activations themselves; give `every` to look at some steps only.

    Args:
        model: The network; hooks are put on it and taken away again.
        every: Record each site's first call and every that many calls after it.

    Attributes:
        history: Site -> (rho, rho') of each recorded call, in order.
        weights: `mean_weights` of the model before each recorded step.

    Raises:
        UserError: The model has no elementwise activation.

    Example:
        >>> with VarianceRecorder(model) as recorder:
        ...     train(model)
        >>> gradient_score(recorder.latest())
    """

    def __init__(self, model: nn.Module, every: int = 1) -> None:
        types = activation_types()
        named = [(path, module) for path, module in model.named_modules() if isinstance(module, types)]
        inside = [path for path, module in named if isinstance(module, NormalizedAct)]
        self._sites = {
            path: module
            for path, module in named
            if isinstance(module, NormalizedAct)
            or (is_elementwise(module) and not any(path.startswith(f"{each}.") for each in inside))
        }
        if not self._sites:
            raise UserError(f"{type(model).__name__} has no elementwise activation modules to record.")
        self._model = model
        self.every = every
        self.weights: list[float] = []
        self.history: dict[str, list[tuple[float, float]]] = {path: [] for path in self._sites}
        self._calls = dict.fromkeys([*self._sites, None], 0)  # None: the model itself
        self._handles: list[RemovableHandle] = []

    def __enter__(self) -> "VarianceRecorder":
        self._handles.append(self._model.register_forward_pre_hook(self._weigh))
        for path, module in self._sites.items():
            inputs: list[Tensor] = []
            self._handles += [
                module.register_forward_pre_hook(self._keep(path, inputs)),
                module.register_forward_hook(self._record(path, inputs)),
            ]
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles.clear()

    def latest(self) -> dict[str, tuple[float, float]]:
        """(rho, rho') of each site at its last recorded call; sites that never ran in training are left out."""
        return {path: values[-1] for path, values in self.history.items() if values}

    def scores(self) -> list[float]:
        """`gradient_score` of each recorded step, for sites that ran equally often."""
        steps = zip(*(values for values in self.history.values() if values), strict=True)
        return [gradient_score(dict(enumerate(step))) for step in steps]

    def _due(self, path: str | None, module: nn.Module) -> bool:
        """Count a call; whether it is one to record."""
        if not module.training or computed_again():
            return False
        self._calls[path] += 1
        return (self._calls[path] - 1) % self.every == 0

    def _weigh(self, module: nn.Module, args: Any) -> None:
        if self._due(None, module):
            self.weights.append(mean_weights(module))

    def _keep(self, path: str, inputs: list[Tensor]) -> Callable[..., None]:
        def hook(module: nn.Module, args: Any) -> None:
            if self._due(path, module):
                # Before an in-place activation overwrites it.
                inputs.append(args[0].detach().clone() if getattr(module, "inplace", False) else args[0].detach())

        return hook

    def _record(self, path: str, inputs: list[Tensor]) -> Callable[..., None]:
        def hook(module: nn.Module, args: Any, output: Tensor) -> None:
            if inputs:
                found = statistics_of(act_moments(inputs.pop(), output, module))
                self.history[path].append((float(found.rho), float(found.slope)))

        return hook


def gradient_score(statistics: Mapping[Any, tuple[float, float]]) -> float:
    """Sum over the activations of ``(|ln rho| + |ln rho'|) / 2`` (equation 22); 0 where the variance never changes.

    Args:
        statistics: (rho, rho') of each activation, as from `VarianceRecorder.latest`.

    Returns:
        The score; infinite where an activation passes nothing.
    """
    return sum(
        (abs(math.log(rho)) + abs(math.log(slope))) / 2 if rho > 0 and slope > 0 else math.inf
        for rho, slope in statistics.values()
    )


def mean_weights(model: nn.Module) -> float:
    """Sum over the convolutions and linear layers of the absolute mean of their weights (figure 4)."""
    layers = (module for module in model.modules() if isinstance(module, nn.Linear | nn.modules.conv._ConvNd))
    return sum(abs(float(layer.weight.detach().cpu().double().mean())) for layer in layers)
