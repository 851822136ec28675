"""Float64 oracle of the LayerAct family: values and the closed-form backward of paper v3, section 3.1.

Written against the paper's equations with numpy, never against the code under test: statistics in two passes, and the
gradient through the mean and the variance term by term.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def sigmoid(n: Array) -> Array:
    return 0.5 * (1.0 + np.tanh(0.5 * n))


def sigmoid_slope(n: Array) -> Array:
    return 0.25 / np.cosh(0.5 * n) ** 2


def hardsigmoid(n: Array) -> Array:
    return np.minimum(np.maximum(n / 6 + 0.5, 0.0), 1.0)


def hardsigmoid_slope(n: Array) -> Array:
    return np.where(np.abs(n) < 3, 1 / 6, 0.0)


def arctan(n: Array) -> Array:
    return 0.5 + np.arctan(np.pi / 2 * n) / np.pi


def arctan_slope(n: Array) -> Array:
    return 0.5 / (1 + (np.pi / 2 * n) ** 2)


SCALES: dict[str, tuple[Callable[[Array], Array], Callable[[Array], Array]]] = {
    "sigmoid": (sigmoid, sigmoid_slope),
    "hardsigmoid": (hardsigmoid, hardsigmoid_slope),
    "arctan": (arctan, arctan_slope),
}


@dataclass(frozen=True)
class Reference:
    """What `layer_act_reference` computed; the last three only with a gradient or an affine variant."""

    normalized: Array
    value: Array
    grad: Array | None = None
    grad_weight: Array | None = None
    grad_bias: Array | None = None


def layer_act_reference(
    y: Array,
    scale: str,
    alpha: float,
    upstream: Array | None = None,
    weight: Array | None = None,
    bias: Array | None = None,
) -> Reference:
    """Value, and with `upstream` the gradients, of ``y * s(weight * n + bias)`` for y of shape ``(N, C, *)``."""
    s, slope = SCALES[scale]
    y = np.asarray(y, dtype=np.float64)
    per_channel = (-1,) + (1,) * (y.ndim - 2)
    gain = 1.0 if weight is None else weight.reshape(per_channel)
    shift = 0.0 if bias is None else bias.reshape(per_channel)
    axes = tuple(range(1, y.ndim))
    count = max(int(np.prod(y.shape[1:])), 1)
    centred = y - y.sum(axes, keepdims=True) / count
    variance = (centred**2).sum(axes, keepdims=True) / count
    n = centred / np.sqrt(variance + alpha)
    argument = gain * n + shift
    value = y * s(argument)
    if upstream is None:
        return Reference(n, value)
    # The paper's backward, with n's gain. dL/dn is its common factor dL/da * ds/dn * y.
    grad_argument = upstream * slope(argument) * y
    grad_n = grad_argument * gain
    grad_mean = (-grad_n / np.sqrt(variance + alpha)).sum(axes, keepdims=True)
    grad_variance = (-grad_n * n / (2 * (variance + alpha))).sum(axes, keepdims=True)
    grad = (
        upstream * s(argument)
        + grad_n / np.sqrt(variance + alpha)
        + grad_mean / count
        + 2 * centred / count * grad_variance
    )
    others = (0, *range(2, y.ndim))
    return Reference(n, value, grad, (grad_argument * n).sum(others), grad_argument.sum(others))
