"""The maths of layer-level activation, in plain differentiable torch: the definition that all else is checked against.

`functional` is what to call: it computes the same, by a fused kernel where there is one.

A LayerAct function multiplies its input by a scale of the *layer-normalised* input
(Yoon & Lim, "LayerAct: Advanced Activation Mechanism for Robust Inference of CNNs", equation 6)::

    a = y * s(n),    n = (y - mean) / sqrt(var + alpha)

with mean and population variance of a sample taken over all of its dimensions, so that the *criterion* of activation
adapts to the sample while its statistics survive (unlike LayerNorm followed by an activation).
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from .scales import Scale, hardsigmoid, resolve_scale

__all__ = ["DEFAULT_ALPHA", "check_affine", "check_input", "la_hardsilu", "la_silu", "layer_act", "layer_normalize"]

# The paper's value for CIFAR-size models (v3, appendix H); its ImageNet-size models take 0.1.
DEFAULT_ALPHA = 1e-5


def check_input(x: Tensor) -> None:
    """Refuse a tensor whose samples have no layer statistics.

    Raises:
        ValueError: `x` has no dimension but the batch.
        TypeError: `x` is not real floating point, or no dense tensor.
    """
    if x.is_nested or x.layout != torch.strided:
        raise TypeError(
            "LayerAct needs a dense tensor, got one that is nested, sparse or of another library's layout; convert it "
            "with x.to_dense(), or a nested one with x.to_padded_tensor(0.0), whose padding counts then."
        )
    if x.dim() < 2:
        raise ValueError(
            f"LayerAct normalises each sample over all of its dimensions, so the input needs shape (N, ...), "
            f"got {list(x.shape)}; add a batch dimension with x[None]."
        )
    if not x.is_floating_point():
        way = "x.dequantize()" if x.is_quantized else "x.float()"
        raise TypeError(f"LayerAct needs a floating-point input, got {x.dtype}; convert it with {way}.")


def check_affine(x: Tensor, weight: Tensor | None, bias: Tensor | None) -> None:
    """Refuse affine parameters that do not hold one value a channel (ValueError)."""
    for name, parameter in (("weight", weight), ("bias", bias)):
        if parameter is not None and parameter.shape != x.shape[1:2]:
            raise ValueError(
                f"{name} must hold one value for each of the {x.shape[1]} channels of the input {list(x.shape)}, "
                f"got shape {list(parameter.shape)}."
            )


def layer_normalize(x: Tensor, alpha: float = DEFAULT_ALPHA) -> Tensor:
    """Normalise every sample over all of its dimensions (paper v3, equation 6): ``(x - mean) / sqrt(var + alpha)``.

    Statistics are the population's, accumulated in float32 or wider. The order of a sample's elements does not
    matter to them, so a channels_last tensor is read in the order in which it lies in memory, without a copy.

    Args:
        x: Shape ``(N, *)`` with at least one dimension after the batch; any floating dtype.
        alpha: Added to the variance; a constant sample normalises to zeros.

    Returns:
        Tensor of the shape, dtype and memory format of `x`.

    Raises:
        ValueError: `x` has no dimension but the batch.
        TypeError: `x` is not real floating point.
    """
    check_input(x)
    channels_last = x.dim() > 2 and x.stride(1) == 1
    # Wide before anything else: `layer_norm` of bfloat16 keeps its mean in bfloat16 for backward.
    samples = (x.movedim(1, -1) if channels_last else x).to(torch.promote_types(x.dtype, torch.float32))
    # n does not depend on a shift of the sample, and taking one of its own elements away is nearly exact: it keeps the
    # digits that a large mean would cost (mean 1e4, std 1: error in n 1e-3 without, 1e-6 with). Detached, because the
    # derivative along a shift is zero.
    first = samples.detach()
    for _ in range(1, x.dim()):  # cuts each dimension to its first element, and comes round to their order
        first = first[:, :1].movedim(1, -1)
    samples = samples - first
    # Over the sample's own shape: flattening it first would tie an exported graph to sizes that divide evenly.
    n = F.layer_norm(samples, samples.shape[1:], eps=alpha).to(x.dtype)
    return n.movedim(-1, 1) if channels_last else n


def la_silu(x: Tensor, alpha: float = DEFAULT_ALPHA) -> Tensor:
    """LA-SiLU, ``x * sigmoid(layer_normalize(x))`` (paper v3, section 3.1). Shapes and errors as `layer_normalize`."""
    return (x * torch.sigmoid(layer_normalize(x, alpha))).to(x.dtype)


def la_hardsilu(x: Tensor, alpha: float = DEFAULT_ALPHA) -> Tensor:
    """LA-HardSiLU, ``x * clip(n / 6 + 1/2, 0, 1)`` (paper v3, section 3.1). Shapes and errors as `layer_normalize`."""
    return (x * hardsigmoid(layer_normalize(x, alpha))).to(x.dtype)


def layer_act(
    x: Tensor,
    scale: Scale = "sigmoid",
    alpha: float = DEFAULT_ALPHA,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
) -> Tensor:
    """`functional.layer_act` by torch operations, as often differentiable as `scale`; arguments and errors as there."""
    scale_fn = resolve_scale(scale)
    n = layer_normalize(x, alpha)
    check_affine(x, weight, bias)
    per_channel = (-1,) + (1,) * (x.dim() - 2)
    if weight is not None:
        n = n * weight.view(per_channel)
    if bias is not None:
        n = n + bias.view(per_channel)
    return (x * scale_fn(n)).to(x.dtype)
