"""What every architecture of ours shares: the builder behind the entrypoints, and the record of activations."""

import sys
from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from typing import Any

import torch
from timm.models import (
    PretrainedCfg,
    build_model_with_cfg,
    create_model,
    generate_default_cfgs,
    get_pretrained_cfg,
    is_model,
    list_models,
    register_model,
    resolve_pretrained_cfg,
)
from torch import Tensor, nn

from .._utils.timm_types import PretrainedConfig, config_of
from ..checkpoints.fingerprint import activation_fingerprint, check_fingerprint, parse_fingerprint
from ..checkpoints.load import verified_weights
from ..checkpoints.manifest import pretrained_cfgs, shipped
from ..errors import UserError, did_you_mean
from ..fuse import fuse
from ..layers import set_alpha
from ..registry import list_activations
from ..swap import swap_activations
from ._compatibility import warn_of_norms

__all__ = ["NORMALIZED", "RecordsActivations", "Variant", "check_architecture", "register_variants"]

Variant = tuple[Mapping[str, object], PretrainedConfig]
"""Arguments of a class, and timm's config that holds without weights."""

# Suffix of the architecture name -> arguments that make the normalized network of it, in every family.
NORMALIZED = {
    "_nrelu": dict(act_layer="relu", normalized_act="nrelu"),
    "_nswish": dict(act_layer="silu", normalized_act="nswish"),
}


class RecordsActivations:
    """Mixin for timm model classes: adds the activation fingerprint to the arguments that timm saves.

    timm keeps a model's construction arguments in `_model_args`, writes them into config.json and hands them back to
    the entrypoint on loading. Here that record always carries the fingerprint of the model as it is when it is saved,
    under the name ``activations``, which the builder compares with what it built.
    """

    __jit_unused_properties__: tuple[str, ...] = ("_model_args",)  # or TorchScript compiles it
    plain_sites: tuple[str, ...] = ()
    """Patterns of activations that stay as they are where others are normalized, besides those the placement leaves."""

    @property
    def _model_args(self) -> dict[str, object]:
        return dict(getattr(self, "_recorded_args", {}), activations=activation_fingerprint(self))  # type: ignore[arg-type]

    @_model_args.setter
    def _model_args(self, args: dict[str, object]) -> None:
        # `fused` is how to run the model, not what it is.
        self._recorded_args = {key: value for key, value in args.items() if key not in ("activations", "fused")}

    def get_intermediate_layers(self, x: Tensor, n: int | list[int] = 1, **kwargs: Any) -> tuple[Tensor, ...]:
        """The last `n` feature maps of `x`, or those of the indices `n`; `forward_intermediates` without the output."""
        return tuple(self.forward_intermediates(x, n, intermediates_only=True, **kwargs))  # type: ignore[attr-defined]


def build(
    model_cls: type[nn.Module],
    variant: str,
    pretrained: bool = False,
    activations: Mapping[str, str] | None = None,
    fused: bool = True,
    normalized_act: str | None = None,
    alpha: float | None = None,
    **kwargs: Any,
) -> nn.Module:
    """timm's `build_model_with_cfg`, refusing weights that are damaged or were saved with other activations.

    Args:
        model_cls: Class with `RecordsActivations`.
        variant: Architecture name.
        pretrained: Load the weights that the config names.
        activations: Fingerprint from a saved config.json, handed over by timm.
        fused: Run BatchNorm and LayerAct in one pass, see `fuse`.
        normalized_act: Name of a normalized activation for the places that its paper gives it (``nrelu``); the others,
            behind residual additions, run `act_layer`.
        alpha: Alpha of the LayerActs (saved with the model); the architecture's own if None.
        **kwargs: Everything timm takes: ``num_classes``, ``in_chans``, ``features_only``, ``act_layer``, ...

    Raises:
        UserError: ``features_only`` of a network without feature maps, or other ``out_indices`` than it has; `alpha` of
            one without LayerAct; `pretrained` of one without trained weights.
    """

    if pretrained:
        cfg = resolve_pretrained_cfg(variant, kwargs.get("pretrained_cfg"), kwargs.get("pretrained_cfg_overlay"))
        if not cfg.has_weights:
            raise UserError(f"{variant} has no trained weights. {_way_to_weights(variant)}")
        verified_weights(cfg.to_dict(), kwargs.get("cache_dir"))

    def check(state_dict: Mapping[str, Tensor], model: nn.Module) -> Mapping[str, Tensor]:
        if activations is not None:  # the weight file's own is compared where timm loads it
            cfg = config_of(model)
            source = str(cfg.get("file") or cfg.get("hf_hub_id") or "The state dict")
            check_fingerprint(parse_fingerprint(activations, source), model, source)
        return state_dict

    if kwargs.get("features_only") and not hasattr(model_cls, "forward_intermediates"):
        raise UserError(f"{variant} has no feature maps: leave features_only out.")
    if kwargs.get("features_only") and isinstance(kwargs.get("out_indices"), list | tuple):
        _check_features(variant, kwargs["out_indices"])

    def construct(**kwargs: Any) -> nn.Module:
        model = model_cls(**kwargs)
        if normalized_act is not None:
            plain: tuple[str, ...] = model.plain_sites  # type: ignore[assignment]
            swap_activations(model, normalized_act, exclude=plain, placement="normalized")
        if alpha is not None:
            set_alpha(model, alpha)
        return model

    model = build_model_with_cfg(construct, variant, pretrained, pretrained_filter_fn=check, **kwargs)
    warn_of_norms(model)
    return fuse(model) if fused else model


def _check_features(architecture: str, asked: Sequence[int]) -> None:
    """Refuse (UserError) features that an architecture has not, which timm takes until they are used."""
    with torch.device("meta"):
        levels: Any = create_model(architecture).feature_info
    last = len(levels) - 1
    if any(not -len(levels) <= index <= last for index in asked):
        raise UserError(
            f"{architecture} has features at the strides {', '.join(str(each['reduction']) for each in levels)}, by "
            f"out_indices 0 to {last}; got {', '.join(map(str, asked))}. As an encoder of segmentation_models_pytorch "
            f"it takes encoder_depth={last}, with as many decoder_channels."
        )


def _way_to_weights(architecture: str) -> str:
    """How to get weights for an architecture that has none: which of ours have some, and the command that helps."""
    trained = ", ".join(sorted({name.split(".")[0] for name in shipped()}))
    base, _, activation = architecture.rpartition("_")
    stock = get_pretrained_cfg(base) if is_model(base) else None
    if stock and stock.has_weights and activation in list_activations():
        command = f"layeract adapt {base}.{stock.tag} --to {activation} --data FOLDER --output RUN"
        return f"`{command}` makes them from the stock network's; trained are {trained}."
    return f"`layeract train --model {architecture} --data FOLDER --output RUN` makes them; trained are {trained}."


def check_architecture(name: str) -> None:
    """Refuse (`UserError`) a name that no architecture is registered under, with close ones."""
    if not is_model(name):
        raise UserError(f"Unknown architecture {name!r}; {did_you_mean(name, list_models())}")


def register_variants(
    module_name: str,
    model_cls: type[nn.Module],
    architectures: Mapping[str, Variant],
    **build_args: Any,
) -> None:
    """Register one timm entrypoint for each architecture, with its embedded checkpoints as ``arch.tag``.

    Args:
        module_name: ``__name__`` of the calling module, which timm lists the models under.
        model_cls: Class they are built from.
        architectures: Name -> (arguments of the class, timm's config that holds without weights).
        **build_args: Handed to `build` for each (``feature_cfg``).
    """
    module = sys.modules[module_name]
    manifest = shipped()
    cfgs: dict[str, dict[str, object] | PretrainedCfg] = {}
    for name, (_, default_cfg) in architectures.items():
        tagged = {tag: {**default_cfg, **cfg} for tag, cfg in pretrained_cfgs(name, manifest).items()}
        cfgs.update(tagged or {name: {**default_cfg}})
    known = getattr(module, "default_cfgs", {})  # of another class in the same file
    module.default_cfgs = {**known, **generate_default_cfgs(cfgs)}  # type: ignore[attr-defined]
    for name, (model_args, _) in architectures.items():
        entrypoint = _entrypoint(model_cls, name, model_args, build_args)
        entrypoint.__name__ = entrypoint.__qualname__ = name
        entrypoint.__module__ = module_name
        shown = ", ".join(f"{key}={getattr(value, '__name__', repr(value))}" for key, value in model_args.items())
        entrypoint.__doc__ = f"{model_cls.__name__}({shown})."
        setattr(module, name, register_model(entrypoint))


def _entrypoint(
    model_cls: type[nn.Module], variant: str, model_args: Mapping[str, Any], build_args: Mapping[str, Any]
) -> Callable[..., nn.Module]:
    def entrypoint(pretrained: bool = False, **kwargs: Any) -> nn.Module:
        # Copied, because timm writes its own defaults into feature_cfg.
        return build(model_cls, variant, pretrained, **deepcopy(dict(build_args)), **{**model_args, **kwargs})

    return entrypoint
