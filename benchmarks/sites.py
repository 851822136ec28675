"""What a network's BatchNorms, activations and additions cost by themselves, beside copies of as many tensors.

The rest of the network, its convolutions, is the same with every activation: this is what a bar leaves room for.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import timm
import torch
import torch.nn.functional as F
from rich.progress import Progress
from torch import Tensor, nn

from timm_layeract import LASiLU, kernels
from timm_layeract.layers.batch_norm_act import norm_act

from .measure import Row, interleave, rows
from .operations import DEVICE, LAYOUTS

__all__ = ["LEVEL", "MOVED", "NETWORK", "Site", "find_sites", "sites"]

LEVEL = "sites"
NETWORK = ("resnet50", 16, 112)  # name, batch, side
# Tensors that ours reads and writes at a site, where a sample fits the cache and the batch does not.
MOVED = {
    "forward + backward": 9,
    "forward + backward, residual": 14,
    "forward": 3,
    "forward, residual": 6,
}


@dataclass(frozen=True)
class Site:
    """A place of a ResNet where an activation stands.

    Attributes:
        shape: Of what the BatchNorm before it takes, (N, C, H, W).
        residual: Whether a residual is added between.
        residual_norm: Whether that comes from a BatchNorm itself, that of a downsampling shortcut.
    """

    shape: tuple[int, ...]
    residual: bool = False
    residual_norm: bool = False


def find_sites(name: str, batch: int, side: int) -> list[Site]:
    """The sites of one of timm's ResNets, in order."""
    model = timm.create_model(name).eval()
    found: list[Site] = []

    def watch(norm: nn.Module, **of: bool) -> None:
        norm.register_forward_hook(lambda _, inputs, __: found.append(Site((batch, *inputs[0].shape[1:]), **of)))

    watch(model.bn1)
    for stage in (model.layer1, model.layer2, model.layer3, model.layer4):
        for block in stage:
            *inner, last = (norm for key, norm in block.named_children() if key.startswith("bn"))
            for norm in inner:
                watch(norm)
            watch(last, residual=True, residual_norm=block.downsample is not None)
    with torch.inference_mode():
        model(torch.zeros(1, 3, side, side))
    return found


class _Place:
    """The tensors and modules of a site."""

    def __init__(self, site: Site, dtype: torch.dtype, memory_format: torch.memory_format) -> None:
        self.x, self.r, self.g = (
            torch.randn(site.shape, device=DEVICE).to(dtype).contiguous(memory_format=memory_format) for _ in range(3)
        )
        self.norm = nn.BatchNorm2d(site.shape[1], device=DEVICE)
        self.residual_norm = nn.BatchNorm2d(site.shape[1], device=DEVICE) if site.residual_norm else None
        self.residual = self.r if site.residual else None
        self.act = LASiLU()
        self.folded = nn.Identity()

    def copy(self) -> None:
        self.x.clone()

    def stock(self) -> Tensor:
        z = self.norm(self.x)
        if self.residual is not None:
            z += self.residual if self.residual_norm is None else self.residual_norm(self.residual)
        return F.relu(z, inplace=True)

    def ours(self) -> Tensor:
        return norm_act(self.x, self.norm, self.act, self.residual, self.residual_norm)

    def stock_folded(self) -> None:
        F.relu(self.x if self.residual is None else self.x.add_(self.residual), inplace=True)

    def ours_folded(self) -> None:
        norm_act(self.x, self.folded, self.act, self.residual)


def _both_ways(places: list[_Place], operation: Callable[[_Place], Tensor]) -> Callable[[], object]:
    """All sites forward, as in a network, then all of them backward."""

    def run() -> None:
        outputs = [operation(place) for place in places]
        for place in reversed(places):
            outputs.pop().backward(place.g)
            place.x.grad = place.r.grad = None

    return run


@torch.inference_mode()
def _forward(places: list[_Place], operation: Callable[[_Place], object]) -> None:
    for place in places:
        operation(place)


def sites(repetitions: int, progress: Progress) -> Iterator[Row]:
    """All sites of a network one after the other, those with a residual apart: ours, stock, and one copy of each."""
    name, batch, side = NETWORK
    found = find_sites(name, batch, side)
    fused = "triton" if DEVICE == "cuda" else "cpu"
    for layout, memory_format in LAYOUTS.items():
        for dtype in (torch.float32, torch.bfloat16):
            for residual in (False, True):
                places = [_Place(site, dtype, memory_format) for site in found if site.residual == residual]
                suffix = ", residual" if residual else ""
                of = dict(level=LEVEL, shape=f"{batch}x3x{side}x{side}", dtype=str(dtype)[6:], layout=layout)
                copy = {"copy": lambda places=places: _forward(places, _Place.copy)}
                with kernels.use_backend(fused):
                    folded = {
                        "relu": lambda places=places: _forward(places, _Place.stock_folded),
                        "la_silu": lambda places=places: _forward(places, _Place.ours_folded),
                    }
                    if dtype == torch.float32:
                        times = interleave({**copy, **folded}, repetitions, progress)
                        yield from rows(times, what=f"forward{suffix}", **of)
                    for place in places:
                        place.x.requires_grad_(), place.r.requires_grad_()
                    both = {
                        "batch_norm + relu": _both_ways(places, _Place.stock),
                        "batch_norm + la_silu": _both_ways(places, _Place.ours),
                    }
                    times = interleave({**copy, **both}, repetitions, progress)
                    yield from rows(times, what=f"forward + backward{suffix}", **of)
