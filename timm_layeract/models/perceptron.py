"""Perceptrons for 28x28 images: four layers of 20, 40 or 100 units (LayerAct v1, section 4.1), or one of 512 (v3).

In the activations of `plain_cnn`.
"""

from typing import Any

import torch
from timm.layers import LayerType, get_act_layer
from torch import Tensor, nn

from .._utils.timm_types import DeviceAndDtype, PretrainedConfig
from ._builder import RecordsActivations, register_variants
from ._initialization import initialize
from ._linear_head import LinearHead
from .plain_cnn import PLAIN_VARIANTS, PlainHidden

__all__ = ["Perceptron"]


class Perceptron(RecordsActivations, LinearHead):
    """Linear layers of one width, each with its activation, and a linear head.

    Args:
        width: Units of a hidden layer.
        depth: Hidden layers.
        img_size: Height and width of the image; other sizes are an error.
        num_classes: Classes of the head; 0 for none.
        in_chans: Channels of the image.
        act_layer: Activation, as any timm `act_layer`.
        drop_rate: Dropout behind each hidden layer.
        weight_init: ``"he"``, ``"xavier"`` or ``"orthogonal"``, see `models._initialization`.

    Shape: ``(N, in_chans, H, W)`` to ``(N, num_classes)``.
    """

    def __init__(
        self,
        width: int = 100,
        depth: int = 4,
        img_size: tuple[int, int] = (28, 28),
        num_classes: int = 10,
        in_chans: int = 1,
        act_layer: LayerType = nn.ReLU,
        drop_rate: float = 0.0,
        weight_init: str = "he",
        device: Any = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        dd: DeviceAndDtype = {"device": device, "dtype": dtype}
        self.in_chans = in_chans
        self.num_features = self.head_hidden_size = width
        self.hidden = nn.Sequential()
        inputs = in_chans * img_size[0] * img_size[1]
        for _ in range(depth):
            self.hidden.append(PlainHidden(inputs, width, get_act_layer(act_layer), drop_rate, dd))
            inputs = width
        self._set_head(num_classes, dd)
        initialize(self, weight_init)

    @torch.jit.ignore
    def group_matcher(self, coarse: bool = False) -> dict[str, str]:
        """Patterns that group parameters by depth, for layer-wise learning rates."""
        return dict(stem=r"^hidden\.0", blocks=r"^hidden\.(\d+)")

    def forward_features(self, x: Tensor) -> Tensor:
        """Images to the last hidden layer, ``(N, width)``."""
        return self.hidden(x.flatten(1))

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """The last hidden layer to logits; itself with `pre_logits`."""
        return x if pre_logits else self.fc(x)

    def forward(self, x: Tensor) -> Tensor:
        return self.forward_head(self.forward_features(x))


MNIST_CFG = PretrainedConfig(
    num_classes=10,
    input_size=(1, 28, 28),
    fixed_input_size=True,
    pool_size=None,
    crop_pct=1.0,
    interpolation="bilinear",
    mean=(0.1307,),
    std=(0.3081,),
    first_conv="hidden.0.fc",
    classifier="fc",
    license="apache-2.0",
)

register_variants(
    __name__,
    Perceptron,
    {
        f"mlp{width}x{depth}{suffix}": (dict(width=width, depth=depth, **acts), MNIST_CFG)
        for width, depth in ((20, 4), (40, 4), (100, 4), (512, 1))
        for suffix, acts in PLAIN_VARIANTS.items()
    },
)
