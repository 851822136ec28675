"""Names of activations and normalisations, taught to timm: ``act_layer="lasilu"`` works in any model that takes one.

A name is what survives in a saved config, so every activation that a model may be saved with needs one.
"""

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

__all__ = ["activation_factory", "list_activations", "list_norms", "register_activation"]

ActivationFactory = Callable[..., nn.Module]
_OURS: dict[str, ActivationFactory] = {}


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
    if name.lower() not in known:
        raise UserError(f"Unknown activation {name!r}; {did_you_mean(name.lower(), known)}")
    return known[name.lower()]


def _call(activation: nn.Module, x: Tensor, inplace: bool = False) -> Tensor:
    return activation(x)


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
