"""Layer-level activations for timm. Importing the package registers its activation and architecture names with timm.

Needs nothing but torch and timm at import; training, the command line and evaluation import their own libraries.
"""

from . import functional, kernels, models
from .checkpoints import save_pretrained
from .fuse import fuse, unfuse
from .layers import BatchNormLayerAct2d, LAHardSiLU, LASiLU, LayerAct, LazyLayerAct, NormalizedAct
from .registry import list_activations, register_activation
from .swap import SwapReport, swap_activations

__version__ = "0.1.0"
__all__ = [
    "BatchNormLayerAct2d",
    "LAHardSiLU",
    "LASiLU",
    "LayerAct",
    "LazyLayerAct",
    "NormalizedAct",
    "SwapReport",
    "functional",
    "fuse",
    "kernels",
    "list_activations",
    "models",
    "register_activation",
    "save_pretrained",
    "swap_activations",
    "unfuse",
]
