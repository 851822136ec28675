"""Layers: nn.Modules, each a thin skin over `timm_layeract.functional`."""

from .layer_act import LAHardSiLU, LASiLU, LayerAct, LazyLayerAct

__all__ = ["LAHardSiLU", "LASiLU", "LayerAct", "LazyLayerAct"]
