"""Initialisation of convolutions and linear layers by name, as the papers name it."""

from collections.abc import Callable
from functools import partial

from torch import Tensor, nn

from ..errors import UserError, did_you_mean

__all__ = ["INITIALIZATIONS", "initialize"]

INITIALIZATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "xavier": nn.init.xavier_normal_,  # Glorot & Bengio 2010; the second paper's equation 4
    "he": partial(nn.init.kaiming_normal_, nonlinearity="relu"),  # He et al. 2015
    "orthogonal": nn.init.orthogonal_,  # Saxe et al. 2014
}


def initialize(model: nn.Module, name: str) -> None:
    """Draw the weights of every convolution and linear layer anew, and set their biases to zero.

    Args:
        model: Any network; changed in place.
        name: ``"xavier"``, ``"he"`` or ``"orthogonal"``.

    Raises:
        UserError: No such initialisation.
    """
    if name not in INITIALIZATIONS:
        raise UserError(f"Unknown initialisation {name!r}; {did_you_mean(name, INITIALIZATIONS)}")
    for module in model.modules():
        if isinstance(module, nn.Linear | nn.modules.conv._ConvNd):
            INITIALIZATIONS[name](module.weight)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
