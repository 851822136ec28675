"""Checkpoints: saving a model together with its activation fingerprint."""

import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import timm
import torch
from safetensors import safe_open
from safetensors.torch import save
from torch import nn
from torch.nn.utils import parametrize

from .._utils.names import LABELS_KEY
from .._utils.timm_types import config_of
from .._utils.writing import staging, write_whole
from ..compat import timm as timm_compat
from ..errors import UserError
from ..layers import LayerAct, alphas
from ..registry import activation_factory, activation_name, list_activations, with_alpha
from .fingerprint import Fingerprint, activation_fingerprint, fingerprint_mismatches, parse_fingerprint
from .manifest import HUB_FILE

__all__ = [
    "file_sha256",
    "is_smp",
    "rebuild",
    "save_config",
    "save_pretrained",
    "save_weights",
    "stored_fingerprint",
    "without_records",
]

FINGERPRINT_KEY = "activations"
# In config.json: what model.safetensors beside it must be.
WEIGHTS_HASH_KEY = "weights_sha256"
# Left in a swapped stock model's arguments by `swap_activations`, so that timm's own saving refuses it.
SWAP_MARK = "swapped_activations"


def file_sha256(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(2**20):
            digest.update(chunk)
    return digest.hexdigest()


def stored_fingerprint(source: str | Path) -> Fingerprint | None:
    """Fingerprint in the metadata of a safetensors file, or of the model.safetensors in a folder; None without one."""
    path = Path(source)
    path = path / HUB_FILE if path.is_dir() else path
    if path.suffix != ".safetensors" or not path.is_file():
        return None
    with safe_open(path, framework="pt") as file:
        stored = (file.metadata() or {}).get(FINGERPRINT_KEY)
    if not stored:
        return None
    try:
        return parse_fingerprint(json.loads(stored), str(path))
    except json.JSONDecodeError:
        return parse_fingerprint(stored, str(path))  # which no text is


def save_weights(model: nn.Module, path: Path, half: bool = False) -> None:
    """Write a model's state dict as safetensors with its activation fingerprint as metadata, whole or not at all.

    `half` keeps the weights of convolutions and linear layers in float16, half the size; they load as float32.
    """
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    if half:
        tensors = {name: tensor.half() if tensor.dim() > 1 else tensor for name, tensor in tensors.items()}
    metadata = {"format": "pt", FINGERPRINT_KEY: json.dumps(activation_fingerprint(model))}
    write_whole(path, _in_order(save(tensors, metadata)))


def _in_order(file: bytes) -> bytes:
    """A safetensors file with its metadata in order: the library writes it in another one each time."""
    size = int.from_bytes(file[:8], "little")
    header = json.loads(file[8 : 8 + size])
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # the format wants the tensors aligned
    return len(text).to_bytes(8, "little") + text + file[8 + size :]


def save_pretrained(model: nn.Module, directory: str | Path, label_names: tuple[str, ...] | None = None) -> str:
    """Save a timm model in the Hub's layout: config.json and model.safetensors, both with its activation fingerprint.

    ``timm.create_model("local-dir:DIRECTORY", pretrained=True)`` gives the same logits back. The config names an
    architecture that rebuilds the model's activations: its own, or, for a stock model whose activations were
    swapped, the registered one that describes it (a swapped ``resnet50`` may be saved as ``resnet50_lasilu``).
    A network of segmentation_models_pytorch saves itself, for ``smp.from_pretrained``.

    Args:
        model: Model made by ``timm.create_model``, or one of SMP's.
        directory: Made if need be; files of the same names are replaced.
        label_names: Class names in the head's order (SMP's config has them where they are several); if None, those of
            the model's pretrained_cfg, where they are as many as its classes.

    Returns:
        The architecture it was saved as.

    Raises:
        UserError: The model is not timm's, or no registered architecture describes its activations; pruning masks,
            parametrizations or tied weights, which a state dict of its architecture has no place for; another head than
            its architecture has.
    """
    model = getattr(model, "_orig_mod", model)  # what torch.compile wraps
    if is_smp(model):
        if label_names and len(label_names) > 1:
            model._hub_mixin_config[LABELS_KEY] = list(label_names)  # type: ignore[assignment,index,operator]
        model.save_pretrained(directory)  # type: ignore[operator]
        return type(model).__name__
    if "architecture" not in config_of(model):
        raise UserError(f"{type(model).__name__} was not made by timm.create_model, so no config can describe it.")
    _check_savable(model)
    described = rebuild(model)
    with staging(Path(directory)) as staged:
        save_weights(model, staged / HUB_FILE)
        save_config(described, staged / HUB_FILE, label_names)
    return config_of(described)["architecture"]


def _check_savable(model: nn.Module) -> None:
    """Refuse what would come back as something else than it is."""
    for path, module in model.named_modules():
        if parametrize.is_parametrized(module):
            raise UserError(
                f"{path} is parametrized: make its weights plain by "
                f"torch.nn.utils.parametrize.remove_parametrizations, and save then."
            )
        masked = [
            name.removesuffix("_mask") for name, _ in module.named_buffers(recurse=False) if name.endswith("_mask")
        ]
        if masked and f"{masked[0]}_orig" in module._parameters:
            raise UserError(
                f"{path} has a pruning mask: make it permanent by torch.nn.utils.prune.remove(module, {masked[0]!r}), "
                f"and save then."
            )
    seen: dict[int, str] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        first = seen.setdefault(id(parameter), name)
        if first != name:
            raise UserError(
                f"{first} and {name} are one tensor, and would come back as two: give each its own, "
                f"nn.Parameter(weight.detach().clone()), and save then."
            )


def save_config(model: nn.Module, weights: Path, label_names: tuple[str, ...] | None = None) -> None:
    """Write timm's config.json beside a weight file, with the file's hash in it.

    timm reads class names below ``pretrained_cfg`` too, transformers only at the top, so they are written there.
    """
    config: dict[str, object] = {WEIGHTS_HASH_KEY: file_sha256(weights)}
    known = config_of(model).get("label_names") or ()
    names = label_names or (known if len(known) == model.num_classes else ())  # else those of a former head
    if names:
        config["label_names"] = list(names)
    timm_compat.save_config(model, weights.with_name("config.json"), config)


def rebuild(model: nn.Module) -> nn.Module:
    """Build (without memory) the registered architecture that describes a model's activations, or refuse."""
    source_cfg = config_of(model)
    own = source_cfg["architecture"]
    args = without_records(timm_compat.get_model_args(model))
    if callable(args.get("act_layer")):  # which no config can hold
        args["act_layer"] = activation_name(args["act_layer"])
    wanted = activation_fingerprint(model)
    for architecture, arguments in _descriptions(own, args, alphas(model)):
        with torch.device("meta"):
            built = timm.create_model(architecture, **arguments)
        if activation_fingerprint(built) == wanted:
            try:
                built.load_state_dict(model.state_dict(), strict=True, assign=True)
            except RuntimeError as error:
                first = str(error).splitlines()[1].strip().split(": ", 1)[-1][:150]
                raise UserError(
                    f"The model is not as {architecture} builds it ({first}), so no config describes it; change its "
                    f"head by model.reset_classifier(CLASSES) and the rest by arguments of timm.create_model."
                ) from error
            built.pretrained_cfg = {**source_cfg, "architecture": architecture}  # type: ignore[assignment]
            return built
        if architecture == own and arguments == args:
            mismatches = fingerprint_mismatches(activation_fingerprint(built), wanted)
    raise UserError(
        f"{own} would come back with other activations, at {len(mismatches)} site(s), first {mismatches[0]}. "
        f"Build it with the activation in its name (timm.list_models('*lasilu*')) or as "
        f"create_model({own!r}, act_layer=NAME) with a registered name, load these weights into it and save that."
    )


def _descriptions(own: str, args: dict[str, Any], found: set[float]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Architectures and arguments that may describe a network: its own first, then with the alpha that was found."""
    ours = [name for name in (f"{own}_{activation}" for activation in list_activations()) if timm.is_model(name)]
    yield from ((name, args) for name in (own, *ours))
    if len(found) != 1:
        return
    (alpha,) = found
    act_layer = args.get("act_layer")
    if isinstance(act_layer, str) and isinstance(activation_factory(act_layer)(), LayerAct):
        yield own, {**args, "act_layer": with_alpha(act_layer, alpha)}
    yield from ((name, {**args, "alpha": alpha}) for name in (own, *ours) if _has_layer_act(name))


def _has_layer_act(architecture: str) -> bool:
    """Whether an architecture is one of ours that runs LayerAct by itself, and so takes `alpha`."""
    if not timm.models.model_entrypoint(architecture).__module__.startswith(__package__.split(".")[0]):
        return False
    with torch.device("meta"):
        return bool(alphas(timm.create_model(architecture)))


def without_records(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """What a model was built with, of its saved arguments: without what says of its activations."""
    return {name: value for name, value in arguments.items() if name not in (SWAP_MARK, FINGERPRINT_KEY)}


def is_smp(model: nn.Module) -> bool:
    """Whether a network is one of segmentation_models_pytorch's."""
    return isinstance(getattr(model, "_hub_mixin_config", None), dict)
