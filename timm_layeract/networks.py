"""Finding networks by name: timm's, the Hub's, folders, checkpoint files and Python callables, all made alike."""

import hashlib
import importlib
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import timm
import torch
import torchvision.transforms.v2.functional as transforms
from timm.data import resolve_model_data_config
from torch import Tensor, nn

from ._utils.names import is_smp
from .checkpoints.fingerprint import activation_fingerprint, check_fingerprint
from .checkpoints.save import stored_fingerprint
from .errors import UserError, did_you_mean
from .models._builder import check_architecture
from .models.text_rcnn import TextRCNN

__all__ = ["Network", "UnitInput", "load_network", "load_networks"]

SEED = "{seed}"


class UnitInput(nn.Module):
    """A network that takes images in [0, 1] and normalises them itself, which is RobustBench's convention.

    >>> robust_bench_model = UnitInput(timm.create_model("resnet20_lasilu", pretrained=True))

    Args:
        network: Takes normalised images ``(N, C, H, W)``.
        mean: Of each channel; the network's own (its `pretrained_cfg`) if None.
        std: Deviation of each channel, likewise. A network without a `pretrained_cfg` takes [0, 1] already.
    """

    def __init__(
        self, network: nn.Module, mean: Sequence[float] | None = None, std: Sequence[float] | None = None
    ) -> None:
        super().__init__()
        self.network = network
        config = resolve_model_data_config(network) if hasattr(network, "pretrained_cfg") else {}
        self.mean = tuple(mean or config.get("mean", (0.0, 0.0, 0.0)))
        self.std = tuple(std or config.get("std", (1.0, 1.0, 1.0)))

    def forward(self, images: Tensor) -> Tensor:
        """Logits of images in [0, 1], ``(N, C, H, W)``."""
        return self.network(transforms.normalize(images, list(self.mean), list(self.std)))


@dataclass(frozen=True)
class Network:
    """A network to measure, in evaluation mode.

    Attributes:
        label: What results call it; the same for the seeds of one model.
        source: What it was loaded from.
        seed: Seed it was trained with, where the source names it.
        module: Takes images in [0, 1].
        image_size: (H, W), None where the network does not say.
        sha256: Of weights, activations and normalisation: the network's identity in cached results.
    """

    label: str
    source: str
    seed: int | None
    module: UnitInput
    image_size: tuple[int, int] | None
    sha256: str

    @property
    def parameters(self) -> int:
        """Number of parameters."""
        return sum(parameter.numel() for parameter in self.module.parameters())

    @classmethod
    def of(cls, module: nn.Module, label: str, source: str | None = None, seed: int | None = None) -> "Network":
        """Wrap a network that takes normalised images, or a `UnitInput`; refuse (UserError) one that reads texts."""
        if isinstance(module, TextRCNN):
            raise UserError(f"{source or label} reads texts: what is measured here is of networks for images.")
        unit = (module if isinstance(module, UnitInput) else UnitInput(module)).eval()
        unit.to(memory_format=torch.channels_last)  # faster on processors and GPUs alike
        config = getattr(unit.network, "pretrained_cfg", None)
        size = tuple(config["input_size"][1:]) if config and config.get("input_size") else None
        return cls(label, source or label, seed, unit, size, _hash(unit))

    def to(self, device: torch.device) -> "Network":
        """Move it, in place."""
        self.module.to(device)
        return self


def load_networks(sources: Sequence[str], seeds: Sequence[int] = ()) -> list[Network]:
    """Load models; ``{seed}`` in a source stands for each of the seeds in turn.

    Raises:
        UserError: As `load_network`; seeds without a source that takes them, or the other way round.
    """
    if not sources:
        raise UserError("Give at least one model.")
    twice = [source for source in sources if sources.count(source) > 1]
    if twice:
        raise UserError(f"{twice[0]} is given twice.")
    if seeds and not any(SEED in source for source in sources):
        raise UserError(f"--seeds is given, but no model holds {SEED}, as runs/resnet20_{SEED} would.")
    networks = []
    for source in sources:
        if SEED in source and not seeds:
            raise UserError(f"{source} holds {SEED}; give --seeds 11,22,33.")
        for seed in seeds if SEED in source else (None,):
            found = source if seed is None else source.replace(SEED, str(seed))
            networks.append(Network.of(load_network(found), source, found, seed))
    return networks


def load_network(source: str) -> nn.Module:
    """Load one network with its weights, in evaluation mode.

    Args:
        source: timm name with pretrained weights (``resnet20_lasilu``, ``arch.tag``), ``hf-hub:ORG/NAME``, a folder in
            the Hub's layout or of a training run, ``smp:FOLDER`` or ``smp:ORG/NAME`` of one of SMP's,
            ``ARCHITECTURE=FILE`` for a bare checkpoint file, or ``package.module:name`` of a callable that returns an
            `nn.Module`.

    Raises:
        UserError: There is no such model, it has no weights, or the weights belong to other activations.
    """
    folder = Path(source)
    architecture, is_file, file = source.partition("=")
    if folder.is_dir():
        return _from_folder(folder)
    if is_file:
        return _from_file(architecture, Path(file))
    scheme, is_scheme, rest = source.partition(":")
    if scheme in ("hf-hub", "local-dir"):
        return _from_hub(source)
    if is_smp(source):
        from .smp.by_name import load_by_name

        return load_by_name(source)
    if is_scheme:
        return _from_callable(scheme, rest)
    if not timm.is_model(source):
        hint = did_you_mean(source.split(".")[0], timm.list_models())
        raise UserError(f"{source} is neither a timm model nor a folder; {hint}")
    if not timm.models.is_model_pretrained(source):
        raise UserError(f"{source} has no pretrained weights; give {source}=FILE with a checkpoint of yours.")
    return timm.create_model(source, pretrained=True).eval()


def _from_hub(source: str) -> nn.Module:
    try:
        return timm.create_model(source, pretrained=True).eval()
    except UserError:  # other activations
        raise
    except (OSError, ValueError, RuntimeError) as error:
        raise UserError(f"{source} cannot be loaded: {str(error).strip().splitlines()[0][:200]}") from error


def _from_folder(folder: Path) -> nn.Module:
    for place in (folder, folder / "model"):
        if (place / "config.json").is_file():
            return _from_hub(f"local-dir:{place}")
    raise UserError(f"{folder} holds no model: neither config.json nor model/config.json.")


def _from_file(architecture: str, file: Path) -> nn.Module:
    if not file.is_file():
        raise UserError(f"There is no checkpoint file {file}.")
    check_architecture(architecture)
    weights = timm.models.load_state_dict(str(file))
    heads = [tensor for name, tensor in weights.items() if name.endswith("weight") and tensor.ndim == 2]
    model = timm.create_model(architecture, num_classes=len(heads[-1]) if heads else 0)
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        raise UserError(f"{file} does not fit {architecture}: {str(error).splitlines()[1].strip()[:150]}") from error
    fingerprint = stored_fingerprint(file)
    if fingerprint:
        check_fingerprint(fingerprint, model, str(file))
    return model.eval()


def _from_callable(module: str, name: str) -> nn.Module:
    if "" not in sys.path and str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))  # as `python -m` has it
    try:
        made = getattr(importlib.import_module(module), name)()
    except (ImportError, AttributeError) as error:
        raise UserError(f"{module}:{name} cannot be called ({error}); give package.module:function.") from error
    if not isinstance(made, nn.Module):
        raise UserError(f"{module}:{name} returned {type(made).__name__}, not a torch.nn.Module.")
    return made.eval()


def _hash(unit: UnitInput) -> str:
    identity = [unit.mean, unit.std, type(unit.network).__qualname__, activation_fingerprint(unit.network)]
    digest = hashlib.sha256(json.dumps(identity, sort_keys=True).encode())
    for name, tensor in unit.network.state_dict().items():
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
