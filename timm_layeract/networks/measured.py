"""Networks to be measured, all made alike: they take images in [0, 1], and are known by their weights."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torchvision.transforms.v2.functional as transforms
from timm.data import resolve_model_data_config
from torch import Tensor, nn

from ..checkpoints.fingerprint import activation_fingerprint
from ..errors import UserError
from ..models.text_rcnn import TextRCNN
from .source import load_network

__all__ = ["Network", "UnitInput", "load_networks"]

SEED = "{seed}"


class UnitInput(nn.Module):
    """A network that takes images in [0, 1] and normalises them itself, which is RobustBench's convention.

    >>> robust_bench_model = UnitInput(timm.create_model("resnet20_lasilu", pretrained=True))

    Args:
        network: Takes normalised images ``(N, C, H, W)``.
        mean: Mean of each channel; the network's own (from its `pretrained_cfg`) if None.
        std: Standard deviation of each channel, likewise. A network without a `pretrained_cfg` takes [0, 1] already.
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
        """Logits of images in [0, 1], ``(N, C, H, W)``; a network for grey images is given their luminance."""
        if len(self.mean) == 1 and images.shape[1] == 3:
            images = transforms.rgb_to_grayscale(images)
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
        sha256: Hash of weights, activations and normalisation: the network's identity in cached results.
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
            raise UserError(f"{source or label} reads texts: only networks for images are measured here.")
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


def _hash(unit: UnitInput) -> str:
    identity = [unit.mean, unit.std, type(unit.network).__qualname__, activation_fingerprint(unit.network)]
    digest = hashlib.sha256(json.dumps(identity, sort_keys=True).encode())
    for name, tensor in unit.network.state_dict().items():
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
