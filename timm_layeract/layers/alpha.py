"""alpha, which LayerAct adds to the variance, of the activations that a network has."""

from torch import nn

from ..errors import UserError
from .layer_act import LayerAct

__all__ = ["alphas", "set_alpha"]


def alphas(network: nn.Module) -> set[float]:
    """The values of alpha that a network's LayerActs have."""
    return {module.alpha for module in network.modules() if isinstance(module, LayerAct)}


def set_alpha(network: nn.Module, alpha: float) -> None:
    """Give all LayerActs of a network this alpha, in place.

    Raises:
        UserError: It has none, or alpha is not positive.
    """
    if not alpha > 0:
        raise UserError(f"alpha is added to the variance and must be a positive number, got {alpha}.")
    if not alphas(network):
        raise UserError(f"{type(network).__name__} runs no LayerAct, so it has no alpha.")
    for module in network.modules():
        if isinstance(module, LayerAct):
            module.alpha = alpha
