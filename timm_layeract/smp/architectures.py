"""SMP's architectures with other activations in encoder and decoder, saved and loaded without losing them.

Each of SMP's classes gets a subclass (`LayerActUnet` of `Unet`, ...), found under its name in
segmentation_models_pytorch, so that `smp.from_pretrained` resolves it; what it loads is checked as timm's networks of
ours are. U-Net and UNet++ also have names in `smp.create_model` that say the activation.
"""

import inspect
import sys
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import segmentation_models_pytorch as smp
import torch
from huggingface_hub import ModelCard
from segmentation_models_pytorch.base import SegmentationModel

from .._utils.files import write_json
from .._utils.names import CLASS_KEY, NAME_KEY
from .._utils.writing import staging
from ..checkpoints.fingerprint import activation_fingerprint, check_fingerprint, fingerprint_mismatches
from ..checkpoints.load import saved_weights
from ..checkpoints.manifest import HUB_FILE
from ..checkpoints.save import (
    FINGERPRINT_KEY,
    WEIGHTS_HASH_KEY,
    file_sha256,
    save_weights,
    stored_fingerprint,
    without_records,
)
from ..errors import UserError, did_you_mean
from ..fuse import fuse
from ..layers import LayerAct
from ..swap import swap_activations
from .encoders import LAYERACT

__all__ = ["SMP_ACTIVATIONS", "create_model"]

NAMED = ("unet", "unetplusplus")
# Suffix of the architecture name -> activation, that of the encoders of the same suffix.
SMP_ACTIVATIONS = {**LAYERACT, "_silu": "silu"}
CARD = "README.md"
LICENSE = "apache-2.0"
VARIANT = "LayerAct"  # before the name of SMP's class
SAVE_AGAIN = (
    "Where you trust it, read it once by torch.load(FILE, weights_only=True), load that into the network, and save it "
    "by its save_pretrained(FOLDER)."
)


class RecordsSmpActivations:
    """Mixin for SMP's architectures: swaps activations when built, and saves and loads with their fingerprint."""

    config: dict[str, Any]
    _hub_mixin_config: dict[str, Any]

    def _swap(self, encoder_activation: str | None, decoder_activation: str | None) -> None:
        model: Any = self
        # An encoder that runs LayerAct was chosen by a name that says so.
        named = any(isinstance(module, LayerAct) for module in model.encoder.modules())
        if encoder_activation is not None and not named:
            swap_activations(model.encoder, encoder_activation)
        if decoder_activation is not None:
            swap_activations(model.decoder, decoder_activation)
            if isinstance(model, smp.DPT):  # the one whose head has a hidden activation
                swap_activations(model.segmentation_head, decoder_activation)
        fuse(model)

    def save_pretrained(self, save_directory: str | Path, *args: Any, **kwargs: Any) -> str | None:
        """SMP's `save_pretrained`, with the activation fingerprint in config.json and in the weights' metadata.

        The config also holds the hash of the weights, which loading compares, and leaves `encoder_weights` out: loading
        downloads nothing for the encoder.

        Args:
            save_directory: Made if need be.
            *args: As SMP's.
            **kwargs: As SMP's: ``dataset`` and ``metrics`` for the card, ``config`` for more in config.json,
                ``push_to_hub``, ``repo_id``; and `license` of the card, Apache-2.0 if left out.

        Raises:
            UserError: The model's arguments would bring back other activations.
        """
        self._check_described()
        folder = Path(save_directory)
        kwargs.setdefault("repo_id", folder.name)
        if "license" in kwargs:
            kwargs["model_card_kwargs"] = {**kwargs.get("model_card_kwargs", {}), "license": kwargs.pop("license")}
        arguments = self._hub_mixin_config
        more = {**(kwargs.pop("config", None) or {}), "encoder_weights": None}
        self._hub_mixin_config = {**arguments, **more, FINGERPRINT_KEY: activation_fingerprint(self)}  # type: ignore[arg-type]
        try:
            with staging(folder) as staged:
                sent: str | None = super().save_pretrained(staged, *args, **kwargs)  # type: ignore[misc]
                if (folder / CARD).exists():  # somebody's own
                    (staged / CARD).unlink()
            return sent
        finally:
            self._hub_mixin_config = arguments

    def embedded_name(self) -> str:
        """What its weights are called, before the tag: architecture and encoder, ``unet_lasilu-resnet34_lasilu``."""
        decoder = self._hub_mixin_config["decoder_activation"]
        suffixes = {activation: suffix for suffix, activation in SMP_ACTIVATIONS.items()}
        suffix = suffixes.get(decoder, f"_{decoder}") if decoder else ""
        name = f"{type(self).__name__.removeprefix(VARIANT)}{suffix}-{self._hub_mixin_config['encoder_name']}"
        return name.lower().replace(".", "_")

    def embedded_config(self) -> dict[str, object]:
        """What rebuilds it: the content of config.json but the records of activations and weights.

        Raises:
            UserError: As `save_pretrained`.
        """
        self._check_described()
        arguments = without_records(self._hub_mixin_config)
        return {**arguments, "encoder_weights": None, CLASS_KEY: type(self).__name__}

    def _check_described(self) -> None:
        """Refuse a model that its arguments do not rebuild, before anything is written."""
        arguments = without_records(self._hub_mixin_config)
        with torch.random.fork_rng(devices=[]):
            built = type(self)(**{**arguments, "encoder_weights": None})
        mismatches = fingerprint_mismatches(activation_fingerprint(built), activation_fingerprint(self))  # type: ignore[arg-type]
        if mismatches:
            raise UserError(
                f"{type(self).__name__} would come back with other activations, at {len(mismatches)} site(s), first "
                f"{mismatches[0]}. Build it with encoder_activation= and decoder_activation= (registered names), load "
                f"these weights into it and save that."
            )

    def _save_pretrained(self, save_directory: Path) -> None:
        weights = save_directory / HUB_FILE
        save_weights(self, weights)  # type: ignore[arg-type]
        config = {**self._hub_mixin_config, WEIGHTS_HASH_KEY: file_sha256(weights)}
        write_json(save_directory / "config.json", dict(sorted(config.items())))

    @classmethod
    def _from_pretrained(
        cls,
        *,
        model_id: str,
        revision: str | None,
        map_location: str = "cpu",
        strict: bool = True,
        cache_dir: str | Path | None,
        force_download: bool,
        local_files_only: bool,
        token: str | bool | None,
        **arguments: Any,
    ) -> Any:
        """Build the network and load its weights, checked before (`checkpoints.load.saved_weights`)."""
        download: dict[str, object] = dict(
            cache_dir=cache_dir, force_download=force_download, local_files_only=local_files_only, token=token
        )
        for key in ("proxies", "resume_download"):  # of huggingface_hub before 1.0
            if (value := arguments.pop(key, None)) is not None:
                download[key] = value
        weights = saved_weights(model_id, revision, SAVE_AGAIN, **download)
        for key in (WEIGHTS_HASH_KEY, NAME_KEY):  # in config.json, and no arguments
            arguments.pop(key, None)
        return cls._load_as_safetensor(cls(**arguments), str(weights), map_location, strict)

    @classmethod
    def _load_as_safetensor(cls, model: Any, model_file: str, map_location: str, strict: bool) -> Any:
        stored = stored_fingerprint(model_file)
        if stored:
            check_fingerprint(stored, model, model_file)
        return super()._load_as_safetensor(model, model_file, map_location, strict)  # type: ignore[misc]

    def generate_model_card(self, *args: Any, **kwargs: Any) -> ModelCard:
        """SMP's card, under the license of the weights (`license`, Apache-2.0 if left out), importing this package."""
        license_id = kwargs.pop("license", LICENSE)
        card: Any = super().generate_model_card(*args, **kwargs)  # type: ignore[misc]
        card.data.license = license_id
        card.data.tags = sorted({*card.data.tags, "timm_layeract"})
        imports = "import segmentation_models_pytorch as smp"
        card.text = card.text.replace(imports, f"{imports}\nimport timm_layeract  # registers {type(self).__name__}", 1)
        made: ModelCard = card
        return made


def _variant(architecture: type[SegmentationModel]) -> type[SegmentationModel]:
    """A subclass of an SMP architecture that takes `encoder_activation` and `decoder_activation` and records them."""
    name = f"{VARIANT}{architecture.__name__}"
    *own, rest = inspect.signature(architecture.__init__).parameters.values()
    added = [
        inspect.Parameter(key, inspect.Parameter.KEYWORD_ONLY, default=None)
        for key in ("encoder_activation", "decoder_activation", FINGERPRINT_KEY)
    ]

    def __init__(
        self: Any,
        *args: Any,
        encoder_activation: str | None = None,
        decoder_activation: str | None = None,
        activations: Mapping[str, str] | None = None,
        **kwargs: Any,
    ) -> None:
        architecture.__init__(self, *args, **kwargs)
        self._swap(encoder_activation, decoder_activation)
        if activations:
            check_fingerprint(activations, self, "config.json")

    # SMP and huggingface_hub read arguments and defaults off the signature.
    __init__.__signature__ = inspect.Signature([*own, *added, rest])  # type: ignore[attr-defined]
    doc = f"""SMP's `{architecture.__name__}` with other activations; arguments as there, and:

    Args:
        encoder_activation: Registered name of the encoder's activation; None for the encoder's own. An encoder that
            runs LayerAct already keeps it.
        decoder_activation: Registered name of the decoder's activation; None for SMP's own.
        activations: Fingerprint from a saved config.json, which the network is compared with.
    """
    body = {"__init__": __init__, "__doc__": doc, "__module__": __name__}
    return type(name, (RecordsSmpActivations, architecture), body)


_VARIANTS: Mapping[str, Any] = {
    name: _variant(architecture) for name, architecture in smp.MODEL_ARCHITECTURES_MAPPING.items()
}


def create_model(
    arch: str, encoder_activation: str | None = None, decoder_activation: str | None = None, **kwargs: Any
) -> SegmentationModel:
    """`smp.create_model` for any of SMP's architectures, with other activations.

    Args:
        arch: Name of SMP's: ``"fpn"``, ``"deeplabv3plus"``, ...
        encoder_activation: Registered name of the encoder's activation; None for the encoder's own.
        decoder_activation: Registered name of the decoder's; None for SMP's own.
        **kwargs: As `smp.create_model`: ``encoder_name``, ``encoder_weights``, ``in_channels``, ``classes``, ...

    Raises:
        UserError: No such architecture.
    """
    if arch.lower() not in _VARIANTS:
        raise UserError(f"SMP has no architecture {arch!r}; {did_you_mean(arch.lower(), _VARIANTS)}")
    variant = _VARIANTS[arch.lower()]
    return variant(encoder_activation=encoder_activation, decoder_activation=decoder_activation, **kwargs)


for _class in _VARIANTS.values():
    setattr(sys.modules[__name__], _class.__name__, _class)  # where pickle looks
    setattr(smp, _class.__name__, _class)  # where smp.from_pretrained looks
for _name in NAMED:
    for _suffix, _activation in SMP_ACTIVATIONS.items():
        _both = dict(encoder_activation=_activation, decoder_activation=_activation)
        smp.MODEL_ARCHITECTURES_MAPPING[f"{_name}{_suffix}"] = partial(_VARIANTS[_name], **_both)
