"""Layers: nn.Modules, each a thin skin over `timm_layeract.functional` and `timm_layeract.kernels`."""

from .batch_norm_act import BatchNormLayerAct2d
from .layer_act import LAHardSiLU, LASiLU, LayerAct, LazyLayerAct
from .normalized_act import NormalizedAct

__all__ = ["BatchNormLayerAct2d", "LAHardSiLU", "LASiLU", "LayerAct", "LazyLayerAct", "NormalizedAct"]
