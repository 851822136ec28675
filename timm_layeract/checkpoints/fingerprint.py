"""Activation fingerprints: which site of a model runs which activation, with its parameters.

Activations without parameters leave no trace in a state dict, so a checkpoint loaded into the same network with other
activations passes every strict check and computes something else. A fingerprint is that missing trace: every checkpoint
of ours carries one, and every loader of ours compares it with the model that was built.
"""

import functools
from collections.abc import Mapping
from typing import Any

from timm.layers import create_act
from torch import nn
from torch.nn.modules import activation as torch_activations

from ..errors import UserError
from ..layers import LAHardSiLU, LASiLU, LayerAct

__all__ = [
    "ActivationMismatchError",
    "Fingerprint",
    "activation_fingerprint",
    "activation_types",
    "check_fingerprint",
    "describe_activation",
    "fingerprint_mismatches",
    "parse_fingerprint",
]

Fingerprint = dict[str, str]
"""Module path -> activation with its parameters, as in ``{"layer1.0.act1": "LASiLU(alpha=1e-05)"}``."""

# Attributes that leave an activation's values as they are (`init` of PReLU: its slopes are in the state dict). Any
# other plain attribute counts as a parameter: one nobody thought of is then a refused checkpoint at worst, not a
# silent change.
_NOT_PARAMETERS = ("training", "inplace", "forward", "init")


class ActivationMismatchError(UserError):
    """A checkpoint was trained with other activations than the model it is loaded into (or saved as) runs."""


def activation_types() -> tuple[type[nn.Module], ...]:
    """Module types that count as activations: torch's, timm's, ours and registered ones, without the identity."""
    # its __all__, as the file also imports modules that are none (NonDynamicallyQuantizableLinear)
    torch_types = {getattr(torch_activations, name) for name in torch_activations.__all__} - {nn.MultiheadAttention}
    named: list[Any] = [*create_act._ACT_LAYER_DEFAULT.values(), *create_act._ACT_LAYER_ME.values()]
    named_types = {t for t in (getattr(factory, "func", factory) for factory in named) if isinstance(t, type)}
    return tuple((torch_types | named_types | {LayerAct}) - {nn.Identity})


def describe_activation(module: nn.Module) -> str:
    """One activation as text: its class and whatever changes its values, as in ``LeakyReLU(negative_slope=0.01)``."""
    # A lazy module becomes another class at its first forward, and is the same activation before.
    kind = getattr(module, "cls_to_become", None) or type(module)
    shown = [
        f"{name}={_describe_value(value)}"
        for name, value in (vars(module) | module._modules).items()  # a scale may be a module
        if isinstance(value, bool | int | float | str) or callable(value)
        if not (name.startswith("_") or name in _NOT_PARAMETERS)
        if not (name == "scale" and kind in (LASiLU, LAHardSiLU))  # theirs is fixed
    ]
    if isinstance(module, LayerAct) and module.weight is not None:
        shown.append("affine=True")
    return f"{kind.__name__}({', '.join(shown)})"


def _describe_value(value: Any) -> str:
    """A parameter as text that is the same in every process: never an address in memory."""
    if isinstance(value, nn.Module):
        return describe_activation(value)
    if isinstance(value, functools.partial):
        arguments = [*value.args, *(f"{key}={_describe_value(each)}" for key, each in value.keywords.items())]
        return f"{_describe_value(value.func)}({', '.join(map(str, arguments))})"
    if callable(value):
        named = value if hasattr(value, "__qualname__") else type(value)
        return f"{named.__module__}.{named.__qualname__}"
    return f"{value:g}" if isinstance(value, float) else str(value)


def activation_fingerprint(model: nn.Module) -> Fingerprint:
    """Return which module path of `model` runs which activation, in the order of `named_modules`.

    A module used at several places is listed at each of them, an activation inside another one with that.
    """
    types = activation_types()
    found: Fingerprint = {}
    for path, module in model.named_modules(remove_duplicate=False):
        if isinstance(module, types) and not any(path[:end] in found for end in _ancestors(path)):
            found[path] = describe_activation(module)
    return found


def _ancestors(path: str) -> list[int]:
    """Where the paths of the modules around `path` end in it."""
    return [0, *(index for index, letter in enumerate(path) if letter == ".")] if path else []


def fingerprint_mismatches(expected: Mapping[str, str], built: Mapping[str, str]) -> list[str]:
    """Return one line for each site where two fingerprints differ: ``path: expected, found``."""
    sites = list(dict.fromkeys([*expected, *built]))
    return [
        f"{site}: {expected.get(site, 'nothing')} expected, {built.get(site, 'nothing')} found"
        for site in sites
        if expected.get(site) != built.get(site)
    ]


def parse_fingerprint(value: Any, source: str) -> Fingerprint:
    """A fingerprint as it was read from a file, refused (`UserError`) where it is none."""
    if not (isinstance(value, dict) and all(isinstance(each, str) for each in (*value, *value.values()))):
        raise UserError(f"{source} holds a record of activations that cannot be read: it is damaged; get it again.")
    return value


def check_fingerprint(expected: Mapping[str, str], model: nn.Module, source: str) -> None:
    """Refuse a model whose activations are not those of a checkpoint.

    Args:
        expected: The checkpoint's fingerprint.
        model: The model that its weights are to run in.
        source: Where the checkpoint comes from, for the message.

    Raises:
        ActivationMismatchError: Names the sites that differ (the first two of many).
    """
    mismatches = fingerprint_mismatches(expected, activation_fingerprint(model))
    if mismatches:
        shown = "; ".join(mismatches[:2]) + (f"; and {len(mismatches) - 2} more" if len(mismatches) > 2 else "")
        raise ActivationMismatchError(
            f"{source} holds weights for other activations than this model runs, at {len(mismatches)} site(s): "
            f"{shown}. Build the architecture and act_layer that it was saved with."
        )
