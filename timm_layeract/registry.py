"""Names of activations and normalisations, taught to timm: ``act_layer="lasilu"`` works in any model that takes one.

A name is what survives in a saved config, so every activation that a model may be saved with needs one. LayerActs have
names for any alpha and scale: ``lasilu(alpha=0.01)``, ``layeract(scale=hardsigmoid,alpha=0.01)``.
"""

import re
from collections.abc import Callable
from functools import partial

from timm.layers import create_act, create_norm
from timm.models import nfnet, register_notrace_module
from torch import Tensor, nn

from .definition.composite import DEFAULT_ALPHA
from .errors import UserError, did_you_mean
from .layers import (
    DecorrelatedBatchNorm2d,
    IEBN2d,
    ImageLayerNorm,
    LAHardSiLU,
    LASiLU,
    LayerAct,
    LazyLayerAct,
    LeakyReLUGPN,
    NormalizedAct,
    SwitchNorm2d,
    UnbiasedLayerAct,
)

__all__ = [
    "activation_factory",
    "activation_name",
    "list_activations",
    "list_norms",
    "register_activation",
    "with_alpha",
]

ActivationFactory = Callable[..., nn.Module]
_OURS: dict[str, ActivationFactory] = {}
_LAYER_ACT = "layeract"  # with its scale in brackets
_WITH_PARAMETERS = re.compile(r"(\w+)\((\w+=[^,()=]+(?:,\w+=[^,()=]+)*)\)")


class _Names(dict[str, ActivationFactory]):
    """timm's table of activations, which knows those with parameters in brackets too."""

    def __missing__(self, name: str) -> ActivationFactory:
        factory = _with_parameters(name)
        if factory is None:
            raise KeyError(name)
        return factory


def _with_parameters(name: str) -> ActivationFactory | None:
    """The factory of ``lasilu(alpha=0.01)``; None of a name without brackets.

    Raises:
        UserError: No LayerAct, or a parameter that it has not or cannot have.
    """
    found = _WITH_PARAMETERS.fullmatch(name.lower().replace(" ", ""))
    if not found:
        return None
    base, text = found.groups()
    given = dict(each.split("=") for each in text.split(","))
    taken = ("scale", "alpha") if base == _LAYER_ACT else ("alpha",)
    factory: ActivationFactory = LayerAct if base == _LAYER_ACT else activation_factory(base)
    if not isinstance(factory(), LayerAct):
        raise UserError(f"{base} is not a LayerAct: it has no {', '.join(given)}.")
    unknown = [key for key in given if key not in taken]
    if unknown:
        raise UserError(f"{base} has no {unknown[0]!r} to be given a value; {did_you_mean(unknown[0], taken)}")
    try:
        values = {key: float(value) if key == "alpha" else value for key, value in given.items()}
        factory(**values)
    except ValueError as error:
        raise UserError(f"{name}: {error}") from error
    return partial(factory, **values)


def with_alpha(name: str, alpha: float) -> str:
    """The name of a LayerAct with another alpha: ``lasilu(alpha=0.01)``.

    Raises:
        UserError: No activation of that name, or one without alpha, or an alpha that is not positive.
    """
    base, _, parameters = name.lower().replace(" ", "").rstrip(")").partition("(")
    kept = [each for each in parameters.split(",") if each and not each.startswith("alpha=")]
    named = f"{base}({','.join([*kept, f'alpha={alpha!r}'])})"
    activation_factory(named)
    return named


def activation_name(factory: ActivationFactory) -> str:
    """The name under which a class or callable is registered, with its alpha and scale: the inverse of the names.

    ``partial(LASiLU, alpha=0.01)`` is ``lasilu(alpha=0.01)``.

    Raises:
        UserError: It is registered under none.
    """
    known = {**create_act._ACT_LAYER_DEFAULT, _LAYER_ACT: LayerAct}
    wanted = _parts(factory)
    for name, each in known.items():
        if _parts(each) == wanted:
            return f"{name}(scale=sigmoid)" if name == _LAYER_ACT else name
    function, positional, keywords = wanted
    parameters = {key: value for key, value in keywords.items() if key in ("scale", "alpha")}
    for name, each in known.items():
        if _parts(each) == (function, positional, {k: v for k, v in keywords.items() if k not in parameters}):
            named = f"{name}({','.join(f'{key}={value}' for key, value in sorted(parameters.items()))})"
            activation_factory(named)
            return named
    raise UserError(f"{factory} has no name that a config could hold: register_activation(NAME, factory) gives it one.")


def _parts(factory: ActivationFactory) -> tuple[Callable[..., object], tuple[object, ...], dict[str, object]]:
    """What a factory calls, and the arguments that it fixes."""
    if isinstance(factory, partial):
        return factory.func, factory.args, dict(factory.keywords)
    return factory, (), {}


def register_activation(name: str, factory: ActivationFactory) -> None:
    """Give an activation a name: in our registry, and in timm's, so that ``act_layer=name`` builds it.

    Args:
        name: Lower-case name, as it will stand in saved configs.
        factory: Class or callable that takes ``inplace=`` and returns a module.

    Raises:
        ValueError: The name is not lower-case (timm looks names up in lower case) or already taken.
    """
    if name != name.lower():
        raise ValueError(f"timm looks activation names up in lower case: register {name.lower()!r}, not {name!r}.")
    if name in create_act._ACT_LAYER_DEFAULT:
        raise ValueError(f"The activation name {name!r} is taken; choose another.")
    _OURS[name] = factory
    create_act._ACT_LAYER_DEFAULT[name] = factory  # type: ignore[assignment]


def list_activations() -> list[str]:
    """Names of this package's activations, sorted; timm's own names work wherever these do."""
    return sorted(_OURS)


def list_norms() -> list[str]:
    """Names of this package's normalisations for timm's ``norm_layer=``, sorted; underscores do not count."""
    return sorted(_NORMS)


def activation_factory(name: str) -> ActivationFactory:
    """Return the factory of an activation of ours or timm's, by name in any case, as timm does.

    Raises:
        UserError: (a ValueError) No activation has that name; with close names for a typo.
    """
    known = create_act._ACT_LAYER_DEFAULT
    factory = _with_parameters(name)
    if factory is not None:
        return factory
    if name.lower() not in known:
        raise UserError(f"Unknown activation {name!r}; {did_you_mean(name.lower(), known)}")
    return known[name.lower()]


def _call(activation: nn.Module, x: Tensor, inplace: bool = False) -> Tensor:
    return activation(x)


create_act._ACT_LAYER_DEFAULT = _Names(create_act._ACT_LAYER_DEFAULT)  # type: ignore[assignment]
register_activation("lasilu", LASiLU)
register_activation("lahardsilu", LAHardSiLU)
# ImageNet-size models take a larger alpha (paper v3, appendix H); as a name of its own it survives save and load.
IMAGENET_ALPHA = 0.1
register_activation("lasilu_imagenet", partial(LASiLU, alpha=IMAGENET_ALPHA))
register_activation("lahardsilu_imagenet", partial(LAHardSiLU, alpha=IMAGENET_ALPHA))
# As the authors' published code computes them, for their checkpoints.
for _size, _alpha in (("", DEFAULT_ALPHA), ("_imagenet", IMAGENET_ALPHA)):
    register_activation(f"lasilu{_size}_unbiased", partial(UnbiasedLayerAct, "sigmoid", alpha=_alpha))
    register_activation(f"lahardsilu{_size}_unbiased", partial(UnbiasedLayerAct, "hardsigmoid", alpha=_alpha))
# The affine variants of v1.
register_activation("affine_lasilu", partial(LazyLayerAct, "sigmoid"))
register_activation("affine_lahardsilu", partial(LazyLayerAct, "hardsigmoid"))
# Normalized activations; uncentered (without mu) in the paper's LeNet experiment.
for _name, _base in {"nrelu": nn.ReLU, "nlrelu": nn.LeakyReLU, "nswish": nn.SiLU}.items():
    register_activation(_name, partial(NormalizedAct, _base))
    register_activation(f"{_name}_uncentered", partial(NormalizedAct, _base, centered=False))
register_activation("relu_gpn", partial(LeakyReLUGPN, negative_slope=0.0))
register_activation("leaky_relu_gpn", LeakyReLUGPN)
# timm's normalizer-free networks take activations as functions, and only those whose gain they know: the inverse of
# the standard deviation on unit Gaussian input. A table, because measuring them here would cost a third of the import;
# a test measures them.
_NFNET_GAINS = {"lasilu": 1.789, "lahardsilu": 1.816, "lasilu_imagenet": 1.798, "lahardsilu_imagenet": 1.829}
for _name, _gain in _NFNET_GAINS.items():
    create_act._ACT_FN_DEFAULT[_name] = partial(_call, _OURS[_name]())
    nfnet._nonlin_gamma[_name] = _gain

# The normalisations of the LayerAct paper's studies (v3, appendices D to F).
_NORMS: dict[str, Callable[..., nn.Module]] = {
    "switchnorm": SwitchNorm2d,
    "iebn": IEBN2d,
    "dbn": DecorrelatedBatchNorm2d,
    "imagelayernorm": ImageLayerNorm,
    "imagelayernormplain": partial(ImageLayerNorm, affine=False),
    "none": nn.Identity,
}
create_norm._NORM_MAP.update(_NORMS)

# torch.fx keeps the modules whole: their maths looks at the input's rank, strides and dtype.
register_notrace_module(LayerAct)
register_notrace_module(NormalizedAct)
