"""One grammar of names for networks, and the one way from a name to a network.

=======================  ====================================================================================
``resnet20_lasilu``      timm name; its default weights, if it has any
``resnet50.a1_in1k``     timm name with the tag of its weights
``hf-hub:ORG/NAME``      repository on the Hub
``local-dir:FOLDER``     folder in the Hub's layout; without the prefix too, and of a training run, or of SMP
``smp:ARCH/ENCODER``     network of segmentation_models_pytorch without weights (``smp:unet/resnet34``)
``smp:PLACE``            one with weights: a folder, ``ORG/NAME``, or a name of ours (``layeract list``)
``ARCH=FILE``            timm name of an architecture, and a checkpoint file with its weights
``package.module:name``  function that returns a network
=======================  ====================================================================================
"""

import importlib
import pickle
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import timm
import torch
from safetensors import SafetensorError
from torch import nn

from .._utils.names import CLASS_KEY, SMP
from .._utils.records import read_record
from .._utils.timm_types import PretrainedConfig, config_of
from ..checkpoints.load import HUB_ERRORS, check_activations, hub_reason
from ..checkpoints.manifest import SMP_CONFIG, read_manifest
from ..errors import UserError, did_you_mean

__all__ = ["Source", "load_network", "parse_source"]

HUB, LOCAL = "hf-hub:", "local-dir:"
LONGEST, NAME_MAX = 4096, 255  # characters of a path, and of a name in a folder
# What libraries raise over a folder, a repository or a file that is not what it should be.
BROKEN = (OSError, ValueError, RuntimeError, LookupError, TypeError, AttributeError, EOFError)
UNREADABLE = (*BROKEN, pickle.UnpicklingError, SafetensorError)


@dataclass(frozen=True)
class Source:
    """What a name stands for; `parse_source` makes it.

    Attributes:
        name: As it was given.
        kind: Who makes the network: timm, timm with the weights of a file, SMP, or a function.
        place: What they call it.
        file: Checkpoint file of an architecture.
    """

    name: str
    kind: Literal["timm", "file", "smp", "function"]
    place: str
    file: Path | None = None

    @property
    def is_stored(self) -> bool:
        """Whether it is a place that has weights of its own, not a name in a registry."""
        return self.kind == "file" or self.place.startswith((HUB, LOCAL))

    def load(self, num_classes: int | None = None, **arguments: Any) -> nn.Module:
        """The network with its weights, in evaluation mode.

        Args:
            num_classes: Outputs of a new head where it has another number; as many as it has if None.
            **arguments: As for `timm.create_model`, which makes it then.

        Raises:
            UserError: It has no weights, they cannot be read, do not fit, or belong to other activations; a network
                whose head cannot be changed.
        """
        if self.kind == "timm":
            self.check_weights()
            head = {} if num_classes is None else {"num_classes": num_classes}
            return self._create(pretrained=True, **head, **arguments).eval()
        if arguments:
            raise UserError(f"{self.name} is not made by timm with its weights, and takes no {', '.join(arguments)}.")
        if self.kind == "smp":
            from ..smp.by_name import load_by_name, with_classes

            network = load_by_name(self.place)
            return network if num_classes in (None, network.num_classes) else with_classes(network, num_classes).eval()
        model = self._from_file() if self.file else self._from_function()
        if num_classes not in (None, getattr(model, "num_classes", None)):
            if not hasattr(model, "reset_classifier"):
                raise UserError(f"{self.name} cannot be given another head of {num_classes} classes.")
            model.reset_classifier(num_classes)  # type: ignore[operator]
        return model.eval()

    def create(self, num_classes: int, **arguments: Any) -> nn.Module:
        """The network as it is initialised; arguments as for `timm.create_model`.

        Raises:
            UserError: It is none that can be made anew, or not with these arguments.
        """
        if self.kind == "smp":
            from ..smp.by_name import create_by_name

            return create_by_name(self.place, num_classes)
        if self.kind == "function":
            return self._from_function()
        return self._create(num_classes=num_classes, **arguments)

    def describe(self) -> tuple[str, PretrainedConfig]:
        """Its architecture, and timm's config, empty of SMP's networks, which take images of any size."""
        if self.kind == "smp":
            return self.name, {}
        config = config_of(self.sketch())
        if "architecture" not in config:
            raise UserError(f"{self.name} was not made by timm, so nothing says what its inputs are.")
        return config["architecture"], config

    def sketch(self) -> nn.Module:
        """The network without memory for its weights, where a library makes it; a function's as it is.

        Raises:
            UserError: It is one of SMP's.
        """
        if self.kind == "smp":
            raise UserError(
                f"{self.name} takes its activations by name: timm_layeract.smp.create_model("
                f"decoder_activation='lasilu(alpha=0.01)')."
            )
        if self.kind == "function":
            return self._from_function()
        with torch.device("meta"):
            return self._create()

    def check_weights(self) -> None:
        """Refuse (UserError) a timm name that has no weights."""
        if self.kind == "timm" and not self.is_stored and not timm.models.is_model_pretrained(self.place):
            tagged = timm.list_models(f"{self.place.split('.')[0]}*", pretrained=True)
            raise UserError(
                f"{self.name} has no pretrained weights; {did_you_mean(self.place, tagged)} Or give "
                f"{self.place.split('.')[0]}=FILE with a checkpoint of yours."
            )

    def _create(self, **arguments: Any) -> nn.Module:
        """timm's `create_model`; what goes wrong is said in one line."""
        try:
            return timm.create_model(self.place, **arguments)
        except UserError:  # ours say it already
            raise
        except HUB_ERRORS as error:
            raise UserError(f"{self.name} cannot be loaded: {hub_reason(error)}") from error
        except BROKEN as error:
            raise UserError(f"{self.name} cannot be loaded: {_first_line(error)}") from error

    def _from_file(self) -> nn.Module:
        try:
            weights = timm.models.load_state_dict(str(self.file), weights_only=True)
        except UNREADABLE as error:
            raise UserError(f"{self.file} cannot be read as weights: {_first_line(error)}") from error
        heads = [tensor for name, tensor in weights.items() if name.endswith("weight") and tensor.ndim == 2]
        model = self._create(num_classes=len(heads[-1]) if heads else 0)
        try:
            model.load_state_dict(weights)
        except RuntimeError as error:
            raise UserError(
                f"{self.file} does not fit {self.place}: {str(error).splitlines()[1].strip()[:150]}"
            ) from error
        check_activations(model, Path(str(self.file)))
        return model

    def _from_function(self) -> nn.Module:
        module, _, name = self.place.partition(":")
        if "" not in sys.path and str(Path.cwd()) not in sys.path:
            sys.path.insert(0, str(Path.cwd()))  # as `python -m` has it
        try:
            made = getattr(importlib.import_module(module), name)()
        except Exception as error:  # whatever the user's own code raises
            raise UserError(
                f"{self.place} cannot be called ({type(error).__name__}: {_first_line(error)}); give "
                f"package.module:function."
            ) from error
        if not isinstance(made, nn.Module):
            raise UserError(f"{self.place} returned {type(made).__name__}, not a torch.nn.Module.")
        return made


def parse_source(name: str) -> Source:
    """What a name stands for, in the grammar at the top of this file.

    Raises:
        UserError: Nothing of that name, or a folder or file that is not there.
    """
    architecture, is_file, file = name.partition("=")
    scheme, is_scheme, rest = name.partition(":")
    folder = Path(name)
    if any(len(part) > NAME_MAX for part in name.split("/")) or len(name) > LONGEST:
        raise UserError(f"{name[:40]}... is too long to be the name of a network.")
    if name in (HUB, LOCAL, SMP):
        raise UserError(f"{name} names nothing: give a folder or ORG/NAME after it.")
    if name.startswith((HUB, LOCAL)):
        return _folder(name, Path(rest)) if scheme == "local-dir" else Source(name, "timm", name)
    if name.startswith(SMP) or name in {each for each, entry in read_manifest().items() if SMP_CONFIG in entry}:
        return Source(name, "smp", name)
    if _is_ours(folder) or _is_ours(folder / "model"):
        return _folder(name, folder if _is_ours(folder) else folder / "model")
    if is_file and ":" not in architecture:
        if not timm.is_model(architecture):
            raise UserError(f"Unknown architecture {architecture!r}; {_close(architecture)}")
        if not Path(file).is_file():
            raise UserError(f"There is no checkpoint file {file}.")
        return Source(name, "file", architecture, Path(file))
    if is_scheme:
        if not all(part.isidentifier() for part in (*scheme.split("."), rest)):
            raise UserError(f"{name} names no network; give package.module:function, {HUB}ORG/NAME or {LOCAL}FOLDER.")
        return Source(name, "function", name)
    if timm.is_model(name):
        return Source(name, "timm", name)
    if name and folder.is_dir():
        raise UserError(f"{folder} holds no model: neither config.json nor model/config.json.")
    raise UserError(f"Unknown model {name[:80]!r}: neither a timm model nor a folder here; {_close(name)}")


def load_network(name: str) -> nn.Module:
    """A network by name with its weights, in evaluation mode; see `Source.load`."""
    return parse_source(name).load()


def _close(name: str) -> str:
    return did_you_mean(name.split(".")[0][:80], timm.list_models())


def _is_ours(folder: Path) -> bool:
    return (folder / "config.json").is_file()


def _folder(name: str, folder: Path) -> Source:
    """A folder in the layout of the Hub, timm's or SMP's."""
    path = folder / "config.json"
    if not path.is_file():
        raise UserError(f"{name} cannot be loaded: there is no {path}.")
    config = read_record(object, path)
    if isinstance(config, dict) and CLASS_KEY in config:
        return Source(name, "smp", f"{SMP}{folder}")
    architecture = config.get("architecture") if isinstance(config, dict) else None
    if not isinstance(architecture, str) or not timm.is_model(architecture):
        raise UserError(f"{path} names no architecture that timm knows: {architecture!r:.60}.")
    return Source(name, "timm", f"{LOCAL}{folder}")


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
