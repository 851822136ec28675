"""LayerNorm over all of a sample, channels and positions."""

from typing import Any

from torch import nn

__all__ = ["ImageLayerNorm"]


class ImageLayerNorm(nn.GroupNorm):
    """LayerNorm over (C, H, W), as LayerAct normalises (paper v3, section 2.4), with a gain and a bias a channel.

    Args:
        num_channels: Channels.
        eps: Added to the variance.
        affine: False for no gain and bias: then SiLU behind it is LA-SiLU (paper v3, appendix D).

    Shape: ``(N, C, *)`` in and out.
    """

    def __init__(self, num_channels: int, eps: float = 1e-5, affine: bool = True, **dd: Any) -> None:
        super().__init__(1, num_channels, eps, affine, **dd)
