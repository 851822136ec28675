"""Layer-level activations for timm. Importing the package registers its activation and architecture names with timm.

Needs nothing but torch and timm at import; training, the command line and evaluation import their own libraries.
"""

from . import functional, models
from .checkpoints import save_pretrained
from .layers import LAHardSiLU, LASiLU, LayerAct, LazyLayerAct
from .registry import list_activations, register_activation
from .swap import SwapReport, swap_activations

__version__ = "0.1.0"
__all__ = [
    "LAHardSiLU",
    "LASiLU",
    "LayerAct",
    "LazyLayerAct",
    "SwapReport",
    "functional",
    "list_activations",
    "models",
    "register_activation",
    "save_pretrained",
    "swap_activations",
]
