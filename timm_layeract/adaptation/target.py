"""The network that a trained one becomes: the same weights, another activation, a name that says so if there is one."""

from copy import deepcopy

import timm
from torch import nn

from .._utils.timm_types import config_of
from ..checkpoints.fingerprint import activation_fingerprint, fingerprint_mismatches
from ..checkpoints.save import is_smp, without_records
from ..compat.timm import get_model_args
from ..errors import UserError
from ..layers import alphas
from ..registry import activation_factory
from ..swap import swap_activations

__all__ = ["target_network"]


def target_network(model: nn.Module, to: str) -> nn.Module:
    """A copy of a trained network with another activation.

    It is the registered architecture of that activation where there is one (``resnet50`` becomes ``resnet50_lasilu``,
    its alpha included), else the architecture built with ``act_layer=to``, else a copy whose activations are swapped,
    which timm cannot rebuild from a config.

    Args:
        model: timm's or SMP's, left as it is.
        to: Registered activation, with an alpha of its own if need be (``lasilu(alpha=0.01)``).

    Raises:
        UserError: An unknown activation, one with parameters of its own, a network that has nothing to swap or runs
            this activation already.
    """
    activation_factory(to)
    swapped = deepcopy(model)
    try:
        swap_activations(swapped, to)
    except ValueError as error:
        raise UserError(str(error)) from error
    if swapped.state_dict().keys() != model.state_dict().keys():
        raise UserError(
            f"{to} has parameters of its own, so a trained network cannot just take it; train it from scratch."
        )
    target = _smp(model, to) if is_smp(model) else _timm(model, to, swapped)
    if not fingerprint_mismatches(activation_fingerprint(model), activation_fingerprint(target)):
        raise UserError(f"The network runs {to} already: there is nothing to adapt.")
    return target.train(model.training)


def _smp(model: nn.Module, to: str) -> nn.Module:
    from ..smp.by_name import with_activation

    target: nn.Module = with_activation(model, to)
    return target


def _timm(model: nn.Module, to: str, swapped: nn.Module) -> nn.Module:
    """Built by name if that describes it; `swapped` otherwise."""
    cfg = config_of(model)
    own = cfg["architecture"]
    args = without_records(get_model_args(model))
    args.pop("alpha", None)  # of the activation that goes
    base, is_changed, _ = to.partition("(")
    registered = f"{own}_{base}"
    named = registered if timm.is_model(registered) else own
    if named == registered and is_changed:
        args["alpha"] = next(iter(alphas(swapped)))
    try:
        built = timm.create_model(named, **(args if named == registered else {**args, "act_layer": to}))
    except (TypeError, ValueError):  # takes no act_layer
        return swapped
    # a registered one may have another alpha; neither may have other sites
    wanted, found = activation_fingerprint(swapped), activation_fingerprint(built)
    if wanted.keys() != found.keys() or (named == own and wanted != found):
        return swapped
    built.load_state_dict(model.state_dict())
    built.pretrained_cfg = {**cfg, "architecture": named}  # type: ignore[assignment]
    return built
