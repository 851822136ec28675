"""SMP's networks by name, and with the attributes that timm's have, so that one engine trains both."""

from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import segmentation_models_pytorch as smp
from huggingface_hub.errors import HFValidationError
from segmentation_models_pytorch.base import SegmentationModel
from segmentation_models_pytorch.base.modules import Activation
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from torch import nn

from .._utils.names import CLASS_KEY, LABELS_KEY, NOTES_KEY, SMP
from .._utils.records import read_record
from ..checkpoints.load import HUB_ERRORS, entry_weights, hub_reason
from ..checkpoints.manifest import SMP_CONFIG, find_entry, read_manifest
from ..checkpoints.records import Entry
from ..checkpoints.save import without_records
from ..errors import UserError, did_you_mean
from .architectures import LICENSE, VARIANT, create_model
from .encoders import LAYERACT

__all__ = ["create_by_name", "like_timm", "load_by_name", "load_entry", "with_activation", "with_classes"]

HEAD = "segmentation_head."
WINDOW_SIDE = 256  # of the windows it is trained on where no recipe says; a multiple of every encoder's stride


def create_by_name(name: str, classes: int = 1) -> SegmentationModel:
    """A network as it is initialised.

    Args:
        name: ``smp:ARCHITECTURE/ENCODER`` (``smp:unet_lasilu/resnet34_lasilu``), with the name of pretrained weights of
            the encoder as a third part where it starts from any (``smp:unet/resnet34/imagenet``).
        classes: Maps that it gives.

    Raises:
        UserError: Another form, or an unknown architecture or encoder.
    """
    parts = name.removeprefix(SMP).split("/")
    if len(parts) not in (2, 3):
        raise UserError(f"{name} names no network of SMP: give {SMP}ARCHITECTURE/ENCODER, as smp:unet/resnet34.")
    arch, encoder = parts[:2]
    weights = parts[2] if len(parts) == 3 else None
    known = smp.MODEL_ARCHITECTURES_MAPPING
    if arch not in known:
        raise UserError(f"SMP has no architecture {arch!r}; {did_you_mean(arch, known)}")
    if encoder not in smp.encoders.encoders and not encoder.startswith("tu-"):
        raise UserError(f"SMP has no encoder {encoder!r}; {did_you_mean(encoder, smp.encoders.encoders)}")
    # those of ours are in SMP's registry; SMP's own are made so that they record their activations
    ours = arch.rpartition("_")[0] in known
    try:
        make: Callable[..., SegmentationModel] = smp.create_model if ours else create_model
        model = make(arch, encoder_name=encoder, encoder_weights=weights, classes=classes)
    except (KeyError, ValueError) as error:  # weights that its encoder does not have, an encoder that it does not take
        raise UserError(f"{name} cannot be made: {' '.join(str(error.args[0]).split())[:200]}") from error
    return like_timm(model, name)


def load_by_name(name: str) -> SegmentationModel:
    """A trained network, in evaluation mode.

    Args:
        name: ``ARCHITECTURE-ENCODER.TAG`` of trained weights of ours (``layeract list``), or the folder or ``ORG/NAME``
            of a network that SMP saved; with or without ``smp:`` before it.

    Raises:
        UserError: There is none, or it cannot be read.
    """
    place = name.removeprefix(SMP)
    ours = {each: entry for each, entry in read_manifest().items() if SMP_CONFIG in entry}
    if place in ours or place in {each.split(".")[0] for each in ours}:
        _, entry = find_entry(place, ours)
        return load_entry(entry, entry_weights(entry)).eval()
    if Path(place).is_dir():
        _check_config(Path(place) / "config.json")
    try:
        return like_timm(smp.from_pretrained(place)).eval()
    except HFValidationError as error:
        raise UserError(f"There is no folder {place}, nor a repository of that name on the Hub.") from error
    except HUB_ERRORS as error:
        raise UserError(f"{name} cannot be loaded: {hub_reason(error)}") from error


def _check_config(path: Path) -> None:
    """Refuse (UserError) a config.json that SMP did not write."""
    if not path.is_file():
        raise UserError(f"{path.parent} holds no network that SMP saved: it has no config.json.")
    config = read_record(object, path)
    if not isinstance(config, dict) or not isinstance(config.get(CLASS_KEY), str):
        raise UserError(f"{path} was not written by SMP: it names no class under {CLASS_KEY}.")


def load_entry(entry: Entry, weights: Path) -> SegmentationModel:
    """The network of an entry of the manifest, with the weights of a file, checked before.

    Raises:
        ActivationMismatchError: The weights are for other activations.
    """
    arguments = {key: value for key, value in entry[SMP_CONFIG].items() if key != CLASS_KEY}
    variant: Any = getattr(smp, entry[SMP_CONFIG][CLASS_KEY])
    return like_timm(variant._load_as_safetensor(variant(**arguments), str(weights), "cpu", strict=True))


def with_activation(model: SegmentationModel, to: str) -> SegmentationModel:
    """The same network with another activation in encoder and decoder, and the same weights.

    Args:
        model: Any of SMP's architectures.
        to: Registered activation. Where SMP has an encoder of that name (``resnet34_lasilu``), it is that encoder.

    Raises:
        UserError: Weights that do not fit, as the activation has parameters of its own.
    """
    arguments = without_records(model._hub_mixin_config)
    stock = arguments["encoder_name"]
    for suffix in LAYERACT:
        stock = stock.removesuffix(suffix)
    encoder = f"{stock}_{to}"
    named = encoder in smp.encoders.encoders
    architecture = type(model).__name__.removeprefix(VARIANT)
    changes = dict(encoder_name=encoder) if named else dict(encoder_name=stock, encoder_activation=to)
    built = create_model(
        architecture.lower(), **{**arguments, "encoder_weights": None, "decoder_activation": to, **changes}
    )
    try:
        built.load_state_dict(model.state_dict())
    except RuntimeError as error:
        raise UserError(f"{to} has parameters of its own, so a trained network cannot just take it.") from error
    return like_timm(built)


def with_classes(model: SegmentationModel, classes: int) -> SegmentationModel:
    """The same network with a new head, for so many classes, whose weights are drawn."""
    arguments = {key: value for key, value in without_records(model._hub_mixin_config).items() if key != LABELS_KEY}
    built = type(model)(**{**arguments, "encoder_weights": None, "classes": classes})
    kept = {name: tensor for name, tensor in model.state_dict().items() if not name.startswith(HEAD)}
    missing, _ = built.load_state_dict(kept, strict=False)
    assert all(name.startswith(HEAD) for name in missing)
    return like_timm(built, model.pretrained_cfg["architecture"])


def like_timm(model: SegmentationModel, name: str | None = None) -> SegmentationModel:
    """Give a network what timm's have: `pretrained_cfg`, `num_classes`, `in_chans`, `feature_info`.

    Its inputs are taken to be normalised by ImageNet's mean and deviation, as those of SMP's encoders are.

    Args:
        model: Its outputs become logits: where an activation or a classification head says otherwise, what is returned
            is a copy without them.
        name: What it was made by.

    Raises:
        UserError: It ends in an activation after which there are no logits.
    """
    model = _logits_alone(model)
    config: dict[str, Any] = model._hub_mixin_config
    channels = config["in_channels"]
    described = {
        "architecture": name or f"{SMP}{type(model).__name__}/{config['encoder_name']}",
        "input_size": (channels, WINDOW_SIDE, WINDOW_SIDE),
        "mean": IMAGENET_DEFAULT_MEAN if channels == 3 else (0.5,) * channels,
        "std": IMAGENET_DEFAULT_STD if channels == 3 else (0.5,) * channels,
        "interpolation": "bilinear",
        "crop_pct": 1.0,
        "license": LICENSE,
    }
    if config.get(LABELS_KEY):
        described["label_names"] = tuple(config[LABELS_KEY])
    if config.get(NOTES_KEY):
        described["notes"] = tuple(config[NOTES_KEY])
    # PAN halves what its encoder gives three times more
    stride = model.encoder.output_stride * (8 if isinstance(model, smp.PAN) else 1)
    values = dict(pretrained_cfg=described, num_classes=config["classes"], in_chans=channels)
    for key, value in {**values, "feature_info": [{"reduction": stride}]}.items():
        setattr(model, key, value)
    return model


def _logits_alone(model: SegmentationModel) -> SegmentationModel:
    """A network without the activation at its end and without a head that classifies images; itself if it has none."""
    config: dict[str, Any] = model._hub_mixin_config
    last = [module.activation for module in model.segmentation_head.modules() if isinstance(module, Activation)]
    activation = last[-1] if last else nn.Identity()
    if isinstance(activation, nn.Identity) and model.classification_head is None:
        return model
    fitting = nn.Sigmoid if config["classes"] == 1 else (nn.Softmax, nn.LogSoftmax)
    if not isinstance(activation, (nn.Identity, fitting)):
        raise UserError(
            f"{type(model).__name__} ends in {type(activation).__name__} over {config['classes']} class(es), which "
            f"gives no logits of one class a pixel; build it without activation=."
        )
    bare = deepcopy(model)
    for module in bare.segmentation_head.modules():
        if isinstance(module, Activation):
            module.activation = nn.Identity()
    bare.classification_head = None
    bare._hub_mixin_config = {**config, "activation": None, "aux_params": None}
    return bare
