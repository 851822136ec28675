"""Layers: nn.Modules, each a thin skin over `timm_layeract.functional` and `timm_layeract.kernels`."""

from .alpha import alphas, set_alpha
from .batch_norm_act import BatchNormLayerAct2d
from .batch_statistics import synchronize_statistics
from .channel_norms import IEBN2d, SwitchNorm2d
from .decorrelated_norm import DecorrelatedBatchNorm2d
from .gpn import LeakyReLUGPN
from .layer_act import LAHardSiLU, LASiLU, LayerAct, LazyLayerAct, UnbiasedLayerAct
from .layer_norm import ImageLayerNorm
from .normalized_act import NormalizedAct

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
    "SwitchNorm2d",
    "UnbiasedLayerAct",
    "alphas",
    "set_alpha",
    "synchronize_statistics",
]
