"""Warns of normalisations that undo what LayerAct does.

LayerAct reads the mean and the variance of a sample, so a layer right before it that fixes them leaves it nothing to
read (LayerAct v3, section 3.3 and appendices D and F).
"""

import warnings

from torch import nn

from ..layers import IEBN2d, LayerAct, SwitchNorm2d
from ..swap.dataflow import DataFlow
from ..swap.traced_methods import UntraceableError

__all__ = ["NormalizationWarning", "norms_that_undo", "warn_of_norms"]


class NormalizationWarning(UserWarning):
    """A LayerAct follows a normalisation that takes its effect away."""


def _objection(norm: nn.Module) -> str | None:
    """What the paper found of LayerAct behind such a layer; None for nothing."""
    if isinstance(norm, nn.LayerNorm | nn.GroupNorm) and (isinstance(norm, nn.LayerNorm) or norm.num_groups == 1):
        if norm.weight is None:
            return "normalises every sample as LayerAct does, so LA-SiLU is SiLU (v3, appendix D)"
        return "normalises every sample, so little is left for LayerAct to read (v3, appendix D)"
    if isinstance(norm, SwitchNorm2d | IEBN2d):
        return "spreads the means of the channels, which LayerAct does not bear well (v3, appendix F)"
    return None


def norms_that_undo(model: nn.Module) -> dict[str, str]:
    """LayerActs of `model` that read such a normalisation directly: path -> its class and what is known of it.

    What is behind an addition, or in a forward that cannot be traced, is not looked at.
    """
    modules = dict(model.named_modules(remove_duplicate=False))
    if not any(_objection(module) for module in modules.values()):
        return {}
    flow, found = DataFlow(model), {}
    for path in (path for path, module in modules.items() if path and isinstance(module, LayerAct)):
        try:
            norms = [modules[each.path] for each in flow.producers(path) if each.path is not None]
        except UntraceableError:
            continue
        for norm in norms:
            if objection := _objection(norm):
                found[path] = f"{type(norm).__name__} {objection}"
    return found


def warn_of_norms(model: nn.Module) -> None:
    """Give one `NormalizationWarning` if LayerActs of `model` follow a normalisation that undoes them."""
    found = norms_that_undo(model)
    if found:
        path, words = next(iter(found.items()))
        warnings.warn(
            f"{len(found)} LayerAct activations follow a normalisation that takes their effect away, first {path}: "
            f"{words}; use BatchNorm, or an activation without layer statistics.",
            NormalizationWarning,
            stacklevel=3,
        )
