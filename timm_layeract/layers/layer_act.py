"""The LayerAct family as modules."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import UninitializedParameter

from .. import functional as LF
from ..compat.torch import LazyModuleMixin
from ..definition.composite import DEFAULT_ALPHA, check_input
from ..definition.scales import Scale, resolve_scale
from ..errors import UserError

__all__ = ["LAHardSiLU", "LASiLU", "LayerAct", "LazyLayerAct", "UnbiasedLayerAct"]


class LayerAct(nn.Module):
    """Layer-level activation ``y * scale(n)`` (paper v3, equation 6), see `functional.layer_act`.

    Args:
        scale: ``"sigmoid"``, ``"hardsigmoid"`` or an elementwise callable that satisfies Definition 3.1.
        alpha: Added to the variance: 1e-5 for CIFAR-size models, 0.1 for ImageNet-size ones (paper v3, appendix H).
        num_channels: Number of channels for the affine variant, ``n * weight + bias`` (v1, equation 4); None has no
            parameters. `LazyLayerAct` finds the number itself.
        inplace: Accepted so that it drops into any `act_layer`, and ignored: the backward pass needs the input.

    Shape: ``(N, *)`` in and out, with at least one dimension after the batch.
    """

    weight: nn.Parameter | None
    bias: nn.Parameter | None

    def __init__(
        self,
        scale: Scale = "sigmoid",
        alpha: float = DEFAULT_ALPHA,
        num_channels: int | None = None,
        inplace: bool = False,
        device: Any = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        if isinstance(alpha, bool) or not alpha > 0:  # a bool is `inplace` by position, as in nn.ReLU(True)
            raise ValueError(f"alpha is added to the variance and must be a positive number, got {alpha}.")
        resolve_scale(scale)  # an unknown name fails here, not in the first forward
        self.scale = scale
        self.alpha = alpha
        if num_channels is None:
            self.register_parameter("weight", None)
            self.register_parameter("bias", None)
        else:
            self.weight = nn.Parameter(torch.ones(num_channels, device=device, dtype=dtype))
            self.bias = nn.Parameter(torch.zeros(num_channels, device=device, dtype=dtype))

    def forward(self, x: Tensor) -> Tensor:
        return LF.layer_act(x, self.scale, self.alpha, self.weight, self.bias)

    def __prepare_scriptable__(self) -> nn.Module:
        """What torch.jit.script compiles in this module's place: TorchScript knows no scale that is a name."""
        named = {"sigmoid": LASiLU, "hardsigmoid": LAHardSiLU}.get(self.scale if isinstance(self.scale, str) else "")
        if type(self) in (LASiLU, LAHardSiLU):
            return self
        if type(self) is not LayerAct or named is None or self.weight is not None:
            raise UserError(
                f"torch.jit.script takes LASiLU and LAHardSiLU, not {self}; use torch.export or torch.jit.trace."
            )
        return named(self.alpha).train(self.training)

    def extra_repr(self) -> str:
        scale = self.scale if isinstance(self.scale, str) else getattr(self.scale, "__qualname__", repr(self.scale))
        affine = "" if self.weight is None else ", affine=True"
        return f"scale={scale}, alpha={self.alpha:g}{affine}"


class LazyLayerAct(LazyModuleMixin, LayerAct):
    """Affine `LayerAct` whose channel count is taken from its first input; it then becomes a `LayerAct`.

    As with torch's other lazy modules, run one batch through the network (or load a state dict) before handing its
    parameters to an optimizer.
    """

    cls_to_become = LayerAct
    weight: UninitializedParameter  # type: ignore[assignment]
    bias: UninitializedParameter  # type: ignore[assignment]

    def __init__(
        self,
        scale: Scale = "sigmoid",
        alpha: float = DEFAULT_ALPHA,
        inplace: bool = False,
        device: Any = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(scale, alpha)
        self.weight = UninitializedParameter(device=device, dtype=dtype)  # type: ignore[call-arg]
        self.bias = UninitializedParameter(device=device, dtype=dtype)  # type: ignore[call-arg]

    def initialize_parameters(self, x: Tensor) -> None:
        if self.has_uninitialized_params():
            check_input(x)  # before a shape without channels is fixed for good
            with torch.no_grad():
                for parameter, value in ((self.weight, 1.0), (self.bias, 0.0)):
                    parameter.materialize(x.shape[1:2])
                    parameter.fill_(value)


class LASiLU(LayerAct):
    """LA-SiLU: ``y * sigmoid(n)`` (paper v3, section 3.1). Arguments and shape as `LayerAct`, without parameters."""

    def __init__(self, alpha: float = DEFAULT_ALPHA, inplace: bool = False) -> None:
        super().__init__("sigmoid", alpha)

    def forward(self, x: Tensor) -> Tensor:
        return LF.la_silu(x, self.alpha)


class LAHardSiLU(LayerAct):
    """LA-HardSiLU: ``y * clip(n / 6 + 1/2, 0, 1)`` (paper v3, section 3.1). Otherwise as `LASiLU`."""

    def __init__(self, alpha: float = DEFAULT_ALPHA, inplace: bool = False) -> None:
        super().__init__("hardsigmoid", alpha)

    def forward(self, x: Tensor) -> Tensor:
        return LF.la_hardsilu(x, self.alpha)


class UnbiasedLayerAct(LayerAct):
    """LayerAct by the unbiased variance (divided by d - 1), as the LayerAct authors' published code computes it.

    For their checkpoints: over 19 layers of 4,096 values and more the difference reaches 1e-3 of a logit. Otherwise as
    `LASiLU`, with the scale by name.
    """

    def __init__(self, scale: str = "sigmoid", alpha: float = DEFAULT_ALPHA, inplace: bool = False) -> None:
        super().__init__(scale, alpha)

    def forward(self, x: Tensor) -> Tensor:
        return _unbiased_layer_act(x, self.scale, self.alpha)


torch.fx.wrap("_unbiased_layer_act")


def _unbiased_layer_act(x: Tensor, scale: Scale, alpha: float) -> Tensor:
    check_input(x)
    # (y - mean) / sqrt(var d / (d - 1) + alpha) is sqrt(k) (y - mean) / sqrt(var + k alpha) with k = (d - 1) / d
    size = x.shape[1:].numel()
    shrink = max(size - 1, 1) / size
    gain = x.new_full(x.shape[1:2], shrink**0.5, dtype=torch.promote_types(x.dtype, torch.float32))
    return LF.layer_act(x, scale, alpha * shrink, gain, torch.zeros_like(gain))
