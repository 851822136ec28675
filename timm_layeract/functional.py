"""Layer-level activations as functions: by a fused kernel where there is one for the input, else by the composite.

`composite` is the definition, and shows what is computed; `kernels.backend_for(x)` tells which of them runs. Normalized
activations (`normalized`) have the plain definition only.
"""

import torch
from torch import Tensor

from .definition import composite
from .definition.composite import DEFAULT_ALPHA, layer_normalize
from .definition.normalized import normalized_act
from .definition.scales import Scale, check_scale, resolve_scale
from .kernels.dispatch import is_plain, kernels_for
from .kernels.layer_act import fused_layer_act, recomputed_layer_act
from .kernels.memory import are_of_channels

__all__ = ["DEFAULT_ALPHA", "check_scale", "la_hardsilu", "la_silu", "layer_act", "layer_normalize", "normalized_act"]


# Under a tracer of torch.fx each is one call, as it looks at dimensions, strides and dtype of what it gets.
torch.fx.wrap("layer_act")
torch.fx.wrap("layer_normalize")


def la_silu(x: Tensor, alpha: float = DEFAULT_ALPHA) -> Tensor:
    """LA-SiLU, ``x * sigmoid(layer_normalize(x))`` (paper v3, section 3.1). Shapes and errors as `layer_act`."""
    if not torch.jit.is_scripting():  # which knows no scale that may be a name or a function
        return layer_act(x, "sigmoid", alpha)
    return composite.la_silu(x, alpha)


def la_hardsilu(x: Tensor, alpha: float = DEFAULT_ALPHA) -> Tensor:
    """LA-HardSiLU, ``x * clip(n / 6 + 1/2, 0, 1)`` (paper v3, section 3.1). Shapes and errors as `layer_act`."""
    if not torch.jit.is_scripting():  # which knows no scale that may be a name or a function
        return layer_act(x, "hardsigmoid", alpha)
    return composite.la_hardsilu(x, alpha)


def layer_act(
    x: Tensor,
    scale: Scale = "sigmoid",
    alpha: float = DEFAULT_ALPHA,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
) -> Tensor:
    """Layer-level activation ``x * scale(n)`` with any scale function (paper v3, equation 6 and Definition 3.1).

    Args:
        x: Shape ``(N, C, *)`` or ``(N, C)``, any floating dtype and memory format.
        scale: ``"sigmoid"`` (LA-SiLU), ``"hardsigmoid"`` (LA-HardSiLU) or an elementwise callable that satisfies
            Definition 3.1; `check_scale` tests one.
        alpha: Added to the variance.
        weight: Gain of the affine variant (v1, equation 4): ``n * weight + bias``, one value a channel, shape ``(C,)``.
        bias: Its bias, shape ``(C,)``.

    Returns:
        Tensor of the shape, dtype and memory format of `x`.

    Raises:
        ValueError: `x` has no dimension but the batch, `scale` is an unknown name, or `weight` or `bias` does not
            hold one value a channel.
        TypeError: `x` is not real floating point.
    """
    if isinstance(scale, str):
        resolve_scale(scale)
        kernels = kernels_for(x)
        if kernels is not None and are_of_channels(x, weight, bias):
            return fused_layer_act(kernels, x, scale, alpha, weight, bias)
        if is_plain(x) and torch.is_grad_enabled():
            return recomputed_layer_act(x, scale, alpha, weight, bias)
    return composite.layer_act(x, scale, alpha, weight, bias)
