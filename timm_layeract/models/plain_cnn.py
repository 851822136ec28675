"""Plain convolutional networks of the papers: LeNet-5, VGG-19 and the CNN of LayerAct v1 (its table 6).

Each in the activations that the normalized activations' paper compares, initialised as it says, and with LayerAct.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from timm.layers import LayerType, get_act_layer, get_norm_layer
from timm.models import checkpoint_seq
from torch import Tensor, nn
from torch.nn import functional as F
from typing_extensions import Required, TypedDict

from .._utils.timm_types import DeviceAndDtype, PretrainedConfig
from ..checkpoints.fingerprint import activation_fingerprint
from ..compat.timm import get_device_dtype
from ..fuse import FusedSequential, fuses
from ._builder import NORMALIZED, register_variants
from ._initialization import initialize
from ._staged import Staged

__all__ = ["PLAIN_VARIANTS", "PlainConvNet"]


class PlainBlock(nn.Sequential):
    """An optional 2x2 max-pooling, a convolution, a normalisation (or none) and the activation."""

    def __init__(
        self, channels: tuple[int, int], kernel: int, padding: int, pool: bool, norm: Any, act: Any, dd: DeviceAndDtype
    ) -> None:
        super().__init__()
        if pool:
            self.pool = nn.MaxPool2d(2)
        self.conv = nn.Conv2d(*channels, kernel, padding=padding, bias=norm is None, **dd)
        if norm is not None:
            self.bn = norm(channels[1], **dd)
        self.act = act().to(**dd)


@fuses(PlainBlock)
class FusedPlainBlock(FusedSequential, PlainBlock):
    """`PlainBlock` with BatchNorm and LayerAct in one pass."""


class PlainHidden(nn.Sequential):
    """A hidden linear layer, its activation and dropout."""

    def __init__(self, inputs: int, outputs: int, act: Any, drop_rate: float, dd: DeviceAndDtype) -> None:
        super().__init__()
        self.fc = nn.Linear(inputs, outputs, **dd)
        self.act = act().to(**dd)
        self.drop = nn.Dropout(drop_rate)


class PlainConvNet(Staged, nn.Module):
    """Stages of convolutions with 2x2 max-pooling between and after them, hidden linear layers, and a head.

    Args:
        stages: For each stage its convolutions, as (kernel, channels, padding).
        hidden: Widths of the hidden linear layers.
        pool_size: Height and width of what the linear layers read; other sizes are averaged to it.
        num_classes: Classes of the head; 0 for none.
        in_chans: Channels of the input image.
        act_layer: Activation, as any timm `act_layer`.
        norm_layer: Normalisation after each convolution, as any timm `norm_layer`; None for none.
        global_pool: ``"avg"`` or ``"max"``, how larger feature maps come to `pool_size`.
        drop_rate: Dropout behind the hidden layers, or before the head without them.
        weight_init: ``"he"``, ``"xavier"`` or ``"orthogonal"``, see `models._initialization`.
        plain_top: How many activations nearest to the head stay plain in the network's normalized variants.

    Shape: ``(N, in_chans, H, W)`` to ``(N, num_classes)``.
    """

    __jit_unused_properties__ = ("_model_args", "plain_sites")

    def __init__(
        self,
        stages: Sequence[Sequence[tuple[int, int, int]]],
        hidden: Sequence[int] = (),
        pool_size: tuple[int, int] = (1, 1),
        num_classes: int = 10,
        in_chans: int = 3,
        act_layer: LayerType = nn.ReLU,
        norm_layer: LayerType | None = None,
        global_pool: str = "avg",
        drop_rate: float = 0.0,
        weight_init: str = "he",
        plain_top: int = 0,
        device: Any = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        dd: DeviceAndDtype = {"device": device, "dtype": dtype}
        self.num_classes = num_classes
        self.in_chans = in_chans
        self.drop_rate = drop_rate
        self.pool_size = pool_size
        self.plain_top = plain_top
        self.grad_checkpointing = False
        channels = self._add_stages(stages, get_act_layer(act_layer), get_norm_layer(norm_layer), dd)
        self.final_pool = nn.MaxPool2d(2)
        self.num_features = channels
        self.global_pool = _pooling(global_pool, pool_size)
        width = channels * pool_size[0] * pool_size[1]
        self.hidden = nn.Sequential()
        for outputs in hidden:
            self.hidden.append(PlainHidden(width, outputs, get_act_layer(act_layer), drop_rate, dd))
            width = outputs
        self.head_hidden_size = width
        self.fc = nn.Linear(width, num_classes, **dd) if num_classes > 0 else nn.Identity()
        initialize(self, weight_init)

    def _add_stages(self, stages: Sequence[Sequence[tuple[int, int, int]]], act: Any, norm: Any, dd: Any) -> int:
        """Add `stages` and describe them in `feature_info`; returns the channels of the last."""
        channels = self.in_chans
        self.feature_info = []
        self.stages = nn.Sequential()
        for index, convolutions in enumerate(stages):
            stage = nn.Sequential()
            for kernel, width, padding in convolutions:
                first_of_later = index > 0 and len(stage) == 0
                stage.append(PlainBlock((channels, width), kernel, padding, first_of_later, norm, act, dd))
                channels = width
            self.stages.append(stage)
            self.feature_info.append(dict(num_chs=channels, reduction=2**index, module=f"stages.{index}"))
        return channels

    @property
    def plain_sites(self) -> tuple[str, ...]:  # type: ignore[override]
        """Paths of the activations nearest to the head that stay plain where the others are normalized."""
        return tuple(activation_fingerprint(self))[-self.plain_top :] if self.plain_top else ()

    @torch.jit.ignore
    def group_matcher(self, coarse: bool = False) -> dict[str, str]:
        """Patterns that group parameters by depth, for layer-wise learning rates."""
        return dict(stem=r"^stages\.0\.0", blocks=r"^stages\.(\d+)" if coarse else r"^stages\.(\d+)\.(\d+)")

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Put a new head of `num_classes` (0 for none) in place, and a new pooling if one is named."""
        self.num_classes = num_classes
        if global_pool is not None:
            self.global_pool = _pooling(global_pool, self.pool_size)
        dd = get_device_dtype(self)
        self.fc = nn.Linear(self.head_hidden_size, num_classes, **dd) if num_classes > 0 else nn.Identity()
        self.fc.train(self.training)

    def feature_parts(self) -> list[Callable[[Tensor], Tensor]]:
        """The stages."""
        return list(self.stages)

    def after_stages(self, x: Tensor) -> Tensor:
        """The last pooling."""
        return self.final_pool(x)

    def forward_features(self, x: Tensor) -> Tensor:
        """``(N, in_chans, H, W)`` to the last feature map, pooled, ``(N, num_features, H', W')``."""
        if self.grad_checkpointing and not torch.jit.is_scripting():
            return self.final_pool(checkpoint_seq(self.stages, x))
        return self.final_pool(self.stages(x))

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Feature map to logits, or to what the head reads with `pre_logits`."""
        x = self.hidden(self.global_pool(x).flatten(1))
        if len(self.hidden) == 0 and self.drop_rate > 0.0:
            x = F.dropout(x, p=float(self.drop_rate), training=self.training)
        return x if pre_logits else self.fc(x)

    def forward(self, x: Tensor) -> Tensor:
        return self.forward_head(self.forward_features(x))


def _pooling(name: str, size: tuple[int, int]) -> nn.Module:
    kinds = {"avg": nn.AdaptiveAvgPool2d, "max": nn.AdaptiveMaxPool2d}
    if name not in kinds:
        raise ValueError(f"global_pool must be 'avg' or 'max', got {name!r}.")
    return kinds[name](size)


# Suffix of the architecture name -> its activation and the initialisation that goes with it (second paper, section 3;
# LayerAct v1 takes He's).
PLAIN_VARIANTS: dict[str, dict[str, str]] = {
    "": dict(act_layer="relu", weight_init="he"),
    "_lrelu": dict(act_layer="leaky_relu", weight_init="he"),
    "_elu": dict(act_layer="elu", weight_init="he"),
    "_selu": dict(act_layer="selu", weight_init="he"),
    "_silu": dict(act_layer="silu", weight_init="he"),
    "_hardsilu": dict(act_layer="hard_swish", weight_init="he"),
    "_tanh": dict(act_layer="tanh", weight_init="xavier"),
    "_relugpn": dict(act_layer="relu_gpn", weight_init="orthogonal"),
    "_lrelugpn": dict(act_layer="leaky_relu_gpn", weight_init="orthogonal"),
    "_lasilu": dict(act_layer="lasilu", weight_init="he"),
    "_lahardsilu": dict(act_layer="lahardsilu", weight_init="he"),
    **{suffix: dict(acts, weight_init="xavier") for suffix, acts in NORMALIZED.items()},
    "_nlrelu": dict(act_layer="leaky_relu", normalized_act="nlrelu", weight_init="xavier"),
}


def _stages(*stages: Sequence[tuple[int, int]]) -> tuple[tuple[tuple[int, int, int], ...], ...]:
    """(kernel, channels) with the padding that keeps the size."""
    return tuple(tuple((kernel, width, kernel // 2) for kernel, width in stage) for stage in stages)


class PlainArchitecture(TypedDict, total=False):
    """Arguments of `PlainConvNet` that say which network it is."""

    stages: Required[tuple[tuple[tuple[int, int, int], ...], ...]]
    hidden: tuple[int, ...]
    pool_size: tuple[int, int]
    num_classes: int
    in_chans: int
    norm_layer: str
    drop_rate: float
    plain_top: int


VGG19 = PlainArchitecture(
    stages=_stages(*([(3, width)] * depth for width, depth in ((64, 2), (128, 2), (256, 4), (512, 4), (512, 4)))),
    hidden=(4096, 4096),
    num_classes=100,
    drop_rate=0.5,
    plain_top=3,  # section 3.2, in place of a BatchNorm before the head
)
CNN16 = PlainArchitecture(
    stages=_stages(*([(1, width), (3, width), (3, 2 * width)] for width in (16, 32, 64, 128, 256)))
)
LENET5 = PlainArchitecture(stages=(((5, 6, 2),), ((5, 16, 0),)), hidden=(120, 84), pool_size=(5, 5), in_chans=1)
PLAIN_ARCHITECTURES: dict[str, PlainArchitecture] = {
    "lenet5": LENET5,
    "vgg19_cifar": VGG19,
    "vgg19_bn_cifar": {**VGG19, "norm_layer": "batchnorm2d"},
    "cnn16": CNN16,
    "cnn16_bn": {**CNN16, "norm_layer": "batchnorm2d"},
}


def _variant(name: str, acts: dict[str, str]) -> dict[str, str]:
    """The activation's arguments in one architecture: LeNet leaves mu out, VGG-19 draws leaky ReLU by Xavier."""
    if name == "lenet5" and "normalized_act" in acts:
        return dict(acts, normalized_act=f"{acts['normalized_act']}_uncentered")
    if name.startswith("vgg19") and acts["act_layer"] == "leaky_relu":
        return dict(acts, weight_init="xavier")
    return acts


def _cfg(model_args: PlainArchitecture) -> PretrainedConfig:
    gray = model_args.get("in_chans") == 1
    return PretrainedConfig(
        num_classes=model_args.get("num_classes", 10),
        input_size=(1, 28, 28) if gray else (3, 32, 32),
        pool_size=model_args.get("pool_size", (1, 1)),
        crop_pct=1.0,
        interpolation="bilinear",
        mean=(0.1307,) if gray else (0.4914, 0.4822, 0.4465),
        std=(0.3081,) if gray else (0.2470, 0.2435, 0.2616),
        first_conv="stages.0.0.conv",
        classifier="fc",
        license="apache-2.0",
    )


for _name, _model_args in PLAIN_ARCHITECTURES.items():
    register_variants(
        __name__,
        PlainConvNet,
        {
            f"{_name}{suffix}": ({**_model_args, **_variant(_name, acts)}, _cfg(_model_args))
            for suffix, acts in PLAIN_VARIANTS.items()
        },
        feature_cfg=dict(feature_cls="getter", out_indices=tuple(range(len(_model_args["stages"])))),
    )
