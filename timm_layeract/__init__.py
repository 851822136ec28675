"""Layer-level activations for timm. Importing the package registers its activation and architecture names with timm.

Needs nothing but torch and timm at import; training, the command line and evaluation import their own libraries.
segmentation_models_pytorch gets its names when it is imported, before or after this package.
"""

from importlib import import_module

from . import functional, kernels, models
from .checkpoints.save import save_pretrained
from .compat.when_imported import when_imported
from .fuse import fuse, unfuse
from .layers import (
    BatchNormLayerAct2d,
    DecorrelatedBatchNorm2d,
    IEBN2d,
    ImageLayerNorm,
    LAHardSiLU,
    LASiLU,
    LayerAct,
    LazyLayerAct,
    LeakyReLUGPN,
    NormalizedAct,
    SwitchNorm2d,
    synchronize_statistics,
)
from .registry import list_activations, list_norms, register_activation
from .swap import SwapReport, swap_activations

__version__ = "0.1.0"
__all__ = [
    "BatchNormLayerAct2d",
    "DecorrelatedBatchNorm2d",
    "IEBN2d",
    "ImageLayerNorm",
    "LAHardSiLU",
    "LASiLU",
    "LayerAct",
    "LazyLayerAct",
    "LeakyReLUGPN",
    "NormalizedAct",
    "SwapReport",
    "SwitchNorm2d",
    "adapt",
    "functional",
    "fuse",
    "kernels",
    "list_activations",
    "list_norms",
    "models",
    "register_activation",
    "save_pretrained",
    "swap_activations",
    "synchronize_statistics",
    "unfuse",
]


def __getattr__(name: str) -> object:
    """`adapt`, imported when it is asked for, as it needs the training engine."""
    if name == "adapt":
        return import_module(f"{__name__}.adaptation").adapt
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


when_imported("segmentation_models_pytorch", lambda: import_module(f"{__name__}.smp"))
