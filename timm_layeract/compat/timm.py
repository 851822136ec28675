"""timm's names that are private, or that older versions lack (tested from 1.0.21).

A network's construction arguments, `_model_args`, are what a config.json needs to rebuild it. timm records them itself
since 1.0.31; before that they are recorded here, where `create_model` calls the entrypoint of an architecture.
"""

import functools
import inspect
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from timm import layers, models
from timm.models import _builder, _factory, _helpers, _hub
from timm.models._builder import _resolve_pretrained_source as resolve_pretrained_source
from timm.models._features import feature_take_indices
from torch import nn

from .._utils.timm_types import DeviceAndDtype
from .._utils.writing import write_whole

__all__ = [
    "PRIVATE",
    "RECORDS_ARGUMENTS",
    "check_checkpoints",
    "check_pretrained",
    "feature_take_indices",
    "get_device_dtype",
    "get_model_args",
    "resolve_pretrained_source",
    "save_config",
    "update_model_args",
]

# Private name -> (since, what happens without it).
PRIVATE = {
    "timm.models._builder._resolve_pretrained_source": ("0.9", "weights cannot be checked before timm loads them"),
    "timm.models._builder.load_pretrained": ("0.9", "timm's own networks load weights of other activations"),
    "timm.models._factory.load_checkpoint": ("0.4", "checkpoint_path= loads files of other activations"),
    "timm.models._features.feature_take_indices": ("1.0", "no forward_intermediates of our networks"),
    "timm.models._helpers.load_checkpoint": ("0.9", "what imports it from there loads files of other activations"),
    "timm.models._hub.save_config_for_hf": ("0.9", "no config.json beside saved weights"),
}
RECORDS_ARGUMENTS = hasattr(models, "get_model_args")
if not RECORDS_ARGUMENTS:
    PRIVATE["timm.models._factory.model_entrypoint"] = ("0.9", "arguments of networks are lost on saving")
# timm 1.0.16 to 1.0.25 unpickle whatever weights a folder has, safetensors too, and fail.
READS_FOLDERS = "load_state_dict(" in inspect.getsource(_hub.load_state_dict_from_path)
if not READS_FOLDERS:
    PRIVATE["timm.models._builder.load_state_dict_from_path"] = ("1.0.16", "local-dir: cannot read safetensors")
# Arguments of `create_model` that say where weights and tensors go, not what the network is.
_NOT_RECORDED = ("pretrained", "pretrained_cfg", "pretrained_cfg_overlay", "cache_dir", "device", "dtype")


def get_model_args(model: nn.Module) -> dict[str, Any]:
    """What a network was built with, so that the same arguments build it again, but for drop rates."""
    if RECORDS_ARGUMENTS:
        return models.get_model_args(model)
    recorded = getattr(model, "_model_args", {})
    args = {name: value for name, value in recorded.items() if not name.endswith(("drop_rate", "drop_path_rate"))}
    pools = (getattr(part, "global_pool", None) for part in (getattr(model, "head", None), model))
    types = (getattr(pool, "pool_type", pool) for pool in pools)
    pool = next((found for found in types if isinstance(found, str)), None)
    now = {"in_chans": getattr(model, "in_chans", None), "num_classes": getattr(model, "num_classes", None)}
    return args | {name: value for name, value in {**now, "global_pool": pool}.items() if value is not None}


def update_model_args(model: nn.Module, **args: Any) -> None:
    """Record arguments for a change that was made after construction."""
    model._model_args = {**getattr(model, "_model_args", {}), **args}  # type: ignore[assignment]


def save_config(model: nn.Module, path: Path, config: Mapping[str, object]) -> None:
    """Write timm's config.json of a network, with the fields of `config` added.

    Without the number of classes among its arguments, where timm repeats it: transformers gives it to `create_model` a
    second time, and timm itself takes the one at the top.
    """
    _hub.save_config_for_hf(model, path, model_config=dict(config))  # type: ignore[arg-type]
    written = json.loads(path.read_text())
    if written.get("model_args", {}).get("num_classes") == written["num_classes"]:
        del written["model_args"]["num_classes"]
        write_whole(path, json.dumps(written, indent=2))


def check_checkpoints(check: Callable[[nn.Module, Path], None]) -> None:
    """Let timm's `load_checkpoint`, and so ``create_model(checkpoint_path=...)``, check each file by `check` before."""
    load = models.load_checkpoint

    @functools.wraps(load)
    def checked(model: nn.Module, checkpoint_path: str, *args: Any, **options: Any) -> Any:
        check(model, Path(checkpoint_path))
        return load(model, checkpoint_path, *args, **options)

    for place in (models, _helpers, _factory):
        place.load_checkpoint = checked  # type: ignore[attr-defined]


def check_pretrained(check: Callable[[nn.Module, dict[str, Any], str | Path | None, bool], None]) -> None:
    """Let timm's `load_pretrained`, and so ``create_model(pretrained=True)``, call `check` before weights are assigned.

    Args:
        check: Takes the network, its pretrained_cfg, the cache of the Hub, and whether it may be a network's features,
            which timm builds without the head.
    """
    load = models.load_pretrained
    signature = inspect.signature(load)

    @functools.wraps(load)
    def checked(*args: Any, **options: Any) -> None:
        bound = signature.bind(*args, **options)
        bound.apply_defaults()
        given = bound.arguments
        model, filter_fn = given["model"], given["filter_fn"]
        cfg = given["pretrained_cfg"] or getattr(model, "pretrained_cfg", {})

        # timm calls a filter that takes no network a second time, without it.
        def filtered(state_dict: Any, *network: nn.Module) -> Any:
            check(model, cfg, given["cache_dir"], given["num_classes"] == 0 or not given["strict"])
            return filter_fn(state_dict, *network) if filter_fn else state_dict

        given["filter_fn"] = filtered  # called when the weights were read, so a download is in the cache
        load(*bound.args, **bound.kwargs)

    for place in (models, _builder):
        place.load_pretrained = checked  # type: ignore[attr-defined]


def _get_device_dtype(module: nn.Module) -> DeviceAndDtype:
    parameter = next((p for p in module.parameters() if p.is_floating_point()), torch.empty(0))
    return {"device": parameter.device, "dtype": parameter.dtype}


# Public since 1.0.29.
get_device_dtype: Callable[[nn.Module], DeviceAndDtype] = getattr(layers, "get_device_dtype", _get_device_dtype)


def _recording(find_entrypoint: Callable[..., Any]) -> Callable[..., Any]:
    """timm's `model_entrypoint`, whose entrypoints leave their arguments in `_model_args`."""

    @functools.wraps(find_entrypoint)
    def find(*names: Any, **options: Any) -> Any:
        entrypoint = find_entrypoint(*names, **options)

        @functools.wraps(entrypoint)
        def build(**args: Any) -> nn.Module:
            model: nn.Module = entrypoint(**args)
            if not hasattr(model, "in_chans"):  # before 1.0.26
                model.in_chans = args.get("in_chans") or getattr(model, "pretrained_cfg", {}).get("input_size", [3])[0]
            update_model_args(model, **{name: args[name] for name in args if name not in _NOT_RECORDED})
            return model

        return build

    return find


def _with_arguments(save_config_for_hf: Callable[..., None]) -> Callable[..., None]:
    """timm's function, with the arguments of the network in its config."""

    @functools.wraps(save_config_for_hf)
    def save(model: nn.Module, *args: Any, **options: Any) -> None:
        recorded = get_model_args(model)
        for name, value in recorded.items():
            try:
                json.dumps(value)
            except TypeError as error:
                raise ValueError(f"Argument {name!r} is not serializable: {value!r}.") from error
        save_config_for_hf(model, *args, **{**options, "model_args": options.get("model_args") or recorded})

    return save


if not RECORDS_ARGUMENTS:
    _factory.model_entrypoint = _recording(_factory.model_entrypoint)
    _hub.save_config_for_hf = _with_arguments(_hub.save_config_for_hf)


def _load_folder(path: Path, weights_only: bool = True) -> dict[str, torch.Tensor]:
    return models.load_state_dict(str(Path(path) / "model.safetensors"), weights_only=weights_only)


if not READS_FOLDERS:
    _builder.load_state_dict_from_path = _load_folder  # type: ignore[assignment]
