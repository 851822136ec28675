"""Other people's checkpoints as folders in the Hub's layout: the LayerAct authors', timm's and torchvision's.

A `Layout` says as data how a kind of file names what we name otherwise.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import timm
import torch
from timm.models import load_state_dict
from torch import Tensor, nn

from ..checkpoints.fingerprint import activation_fingerprint
from ..checkpoints.save import save_pretrained
from ..errors import UserError, did_you_mean
from ..models import resnet_cifar, resnet_layeract, unet_layeract
from ..models._builder import check_architecture
from ..models._unet_parts import DEPTH

__all__ = ["SOURCES", "Conversion", "convert"]


@dataclass(frozen=True)
class Layout:
    """How a kind of checkpoint differs from the network of ours that takes it.

    Attributes:
        renames: (pattern, replacement) pairs that every key goes through.
        swapped: Pattern of our keys whose convolution reads two joined maps of one width, there in the other order.
        model_args: Arguments that the network of ours needs.
        activations: Suffix of an architecture's name -> activation that computes what the source's does.
    """

    renames: tuple[tuple[str, str], ...] = ()
    swapped: str | None = None
    model_args: Mapping[str, Any] = field(default_factory=dict)
    activations: Mapping[str, str] = field(default_factory=dict)


CIFAR, IMAGENET, UNET = resnet_cifar.ResNetCifar, resnet_layeract.ResNetLayerAct, unet_layeract.UNet
# What stands where in their blocks of six, and the levels of their U, counted from 1 at full size to the bottleneck.
BLOCK = {0: "conv1", 1: "bn1", 3: "conv2", 4: "bn2"}
LEVELS = range(1, DEPTH + 1)
UNBIASED = {"_lasilu": "lasilu_unbiased", "_lahardsilu": "lahardsilu_unbiased"}
# What --from takes -> class of our network (object: any) -> layout. timm's names are torchvision's.
SOURCES: dict[str, dict[type, Layout]] = {
    "layeract": {
        CIFAR: Layout(
            renames=((r"^norm1\.", "bn1."), (r"^layers([123])\.", r"layer\1."), (r"^linear\.", "fc.")),
            model_args={"conv_bias": True, "shortcut_zeros": "after"},
            activations=UNBIASED,
        ),
        IMAGENET: Layout(
            activations={"_lasilu": "lasilu_imagenet_unbiased", "_lahardsilu": "lahardsilu_imagenet_unbiased"}
        ),
        # Theirs puts a sigmoid behind the last convolution, whose output is our logits.
        UNET: Layout(
            renames=(
                *((rf"^encoder{level}\.", f"encoder.{level - 1}.") for level in LEVELS),
                (r"^bottleneck\.", f"encoder.{DEPTH}."),
                *((rf"^upconv{level}\.", f"nodes.{DEPTH - level}.up.") for level in LEVELS),
                *((rf"^decoder{level}\.", f"nodes.{DEPTH - level}.block.") for level in LEVELS),
                *((rf"^(encoder\.\d|nodes\.\d\.block)\.{index}\.", rf"\1.{name}.") for index, name in BLOCK.items()),
                (r"^conv\.", "heads.0."),
            ),
            swapped=r"nodes\.\d\.block\.conv1\.weight",
            activations=UNBIASED,
        ),
    },
    "timm": {object: Layout()},
}
# Counts batches where a BatchNorm has no momentum; files of early torch versions do not have it.
OPTIONAL = ".num_batches_tracked"


@dataclass(frozen=True)
class Conversion:
    """What was converted.

    Attributes:
        architecture: Name it is saved under.
        tensors: Number of tensors taken over.
        renamed: Key in the file -> key of ours, where they differ.
        activations: What the network runs now.
        folder: Where it lies; ``local-dir:FOLDER`` loads it.
    """

    architecture: str
    tensors: int
    renamed: dict[str, str]
    activations: list[str]
    folder: Path


def convert(file: str | Path, architecture: str, folder: str | Path, source: str | None = None) -> Conversion:
    """Turn a state dict of somebody else's code into a folder that timm loads, with the same logits.

    Args:
        file: ``.pth``, ``.pth.tar``, ``.safetensors``; tensors only, a state dict or a dict that holds one.
        architecture: Registered name that the weights are for; a checkpoint does not tell its activation.
        folder: New or empty folder.
        source: ``"layeract"``, the published LayerAct code; ``"timm"``, timm or torchvision, and ours. The keys tell
            them apart if None, but for ImageNet ResNets, which all call their parameters alike.

    Raises:
        UserError: Unknown names, a file that may come from either code, unreadable file, pickled objects, keys or
            shapes that do not fit, NaN or infinity, used folder. Nothing is written then.
    """
    folder = Path(folder)
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        raise UserError(f"{folder} is not an empty folder; give another --out.")
    if source is not None and source not in SOURCES:
        raise UserError(f"Unknown source {source!r}; {did_you_mean(source, SOURCES)}")
    check_architecture(architecture)
    loaded = _read(Path(file))
    layout = _layout(source or "layeract", architecture)
    if source is None and layout.activations and not layout.renames and _changes_activation(architecture, layout):
        raise UserError(
            f"The keys of {file} do not tell whose network it is: give --from timm for networks of ours, timm's and "
            f"torchvision's, or --from layeract for the LayerAct authors', whose activation differs."
        )
    renamed = _rename(loaded, layout, file)
    if layout.renames and all(key == ours for key, ours in renamed.items()):
        layout = Layout()  # the keys are ours already
    tensors = {renamed[key]: _in_our_order(renamed[key], tensor, layout) for key, tensor in loaded.items()}
    model = _build(architecture, layout, tensors)
    _check(model.state_dict(), tensors, file, architecture)
    model.load_state_dict(tensors, strict=False)
    saved = save_pretrained(model, folder)
    changed = {key: ours for key, ours in renamed.items() if key != ours}
    return Conversion(saved, len(tensors), changed, sorted(set(activation_fingerprint(model).values())), folder)


def _read(file: Path) -> dict[str, Tensor]:
    """State dict of a file, without prefixes of wrappers."""
    if not file.is_file():
        raise UserError(f"There is no checkpoint {file}.")
    try:
        loaded = load_state_dict(str(file), use_ema=False, weights_only=True)
    except Exception as error:  # what a damaged pickle raises has no common class
        raise UserError(
            f"{file} cannot be read as tensors: it is damaged, no checkpoint, or holds other objects ("
            f"{type(error).__name__}). Then save its state dict alone where you trust it: "
            f"torch.save(checkpoint['state_dict'], FILE)."
        ) from error
    if not isinstance(loaded, dict) or not loaded or not all(isinstance(each, Tensor) for each in loaded.values()):
        raise UserError(
            f"{file} holds no state dict: expected tensors by name, alone or under 'state_dict' or 'model'."
        )
    broken = [key for key, tensor in loaded.items() if not bool(torch.isfinite(tensor).all())]
    if broken:
        raise UserError(f"{file} holds NaN or infinity, in {_shown(broken)}.")
    return loaded


def _layout(source: str, architecture: str) -> Layout:
    with torch.device("meta"):
        kind = timm.create_model(architecture)
    for cls, layout in SOURCES[source].items():
        if isinstance(kind, cls):
            return layout
    raise UserError(f"The {source} code has no network that {architecture} takes the weights of; try --from timm.")


def _changes_activation(architecture: str, layout: Layout) -> bool:
    """Whether the layout's code computes another activation than the architecture names."""
    return any(architecture.endswith(suffix) for suffix in layout.activations)


def _rename(loaded: Mapping[str, Tensor], layout: Layout, file: str | Path) -> dict[str, str]:
    renamed = {}
    for key in loaded:
        ours = key
        for pattern, replacement in layout.renames:
            ours = re.sub(pattern, replacement, ours)
        renamed[key] = ours
    if len(set(renamed.values())) < len(renamed):
        raise UserError(f"{file} holds keys of two layouts, which become the same key here; is it one network?")
    return renamed


def _in_our_order(key: str, tensor: Tensor, layout: Layout) -> Tensor:
    if layout.swapped and re.fullmatch(layout.swapped, key) and tensor.dim() == 4:
        return tensor.roll(tensor.shape[1] // 2, dims=1)  # the halves change places
    return tensor


def _build(architecture: str, layout: Layout, tensors: Mapping[str, Tensor]) -> nn.Module:
    """The network with the head and input that the weights are for."""
    args = dict(layout.model_args)
    suffix = max((end for end in layout.activations if architecture.endswith(end)), key=len, default=None)
    if suffix is not None:
        args["act_layer"] = layout.activations[suffix]
    cfg: Any = timm.get_pretrained_cfg(architecture)
    names = (name if isinstance(name, str) else next(iter(name or ()), "") for name in (cfg.classifier, cfg.first_conv))
    head, stem = (tensors.get(f"{name}.weight") for name in names)
    if head is not None and head.dim() in (2, 4):
        args["num_classes"] = len(head)
    if stem is not None and stem.dim() == 4:
        args["in_chans"] = stem.shape[1]
    return timm.create_model(architecture, **args)


def _check(ours: Mapping[str, Tensor], theirs: Mapping[str, Tensor], file: str | Path, architecture: str) -> None:
    """Refuse keys that are missing or left over, and shapes that differ, naming them."""
    missing = [key for key in ours if key not in theirs and not key.endswith(OPTIONAL)]
    unused = [key for key in theirs if key not in ours]
    shapes = [
        f"{key} {list(theirs[key].shape)} for {list(ours[key].shape)}"
        for key in ours
        if key in theirs and ours[key].shape != theirs[key].shape
    ]
    faults = [
        f"{len(keys)} {what}: {_shown(keys)}"
        for what, keys in (("missing", missing), ("left over", unused), ("of another shape", shapes))
        if keys
    ]
    if faults:
        raise UserError(f"{file} does not fit {architecture}: {'; '.join(faults)}. Check --arch and --from.")


def _shown(names: list[str], most: int = 2) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
