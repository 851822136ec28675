"""ResNets for 32x32 images (He et al. 2016, section 4.2): 6n+2 layers, 16/32/64 channels, option-A shortcuts.

The networks of the LayerAct papers' CIFAR experiments (v3, tables 1-2), as first-class timm models. One architecture
per depth and activation: `resnet20` runs ReLU, `resnet20_lasilu` LA-SiLU, and so on.
"""

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from timm.layers import DropPath, LayerType, create_classifier, get_act_layer, get_norm_layer
from timm.models import checkpoint_seq
from torch import Tensor, nn

from .._utils.timm_types import DeviceAndDtype, PretrainedConfig
from ..compat.timm import feature_take_indices, get_device_dtype
from ..fuse import Fused, fuses, skips
from ..layers.batch_norm_act import norm_act
from ._builder import NORMALIZED, register_variants
from ._staged import Staged

__all__ = ["ResNetCifar"]

Layer = Callable[..., nn.Module]


class CifarBlock(nn.Module):
    """Two 3x3 convolutions and a parameter-free shortcut (option A): subsampled, padded with zero channels.

    These come in equal parts before and behind the input's, or all of them behind (`zeros` is "after").
    """

    def __init__(
        self,
        in_channels: int,
        channels: int,
        stride: int,
        dilation: int,
        act_layer: Layer,
        norm_layer: Layer,
        drop_path: float,
        dd: DeviceAndDtype,
        conv_bias: bool = False,
        zeros: str = "around",
    ) -> None:
        super().__init__()
        self.stride = stride
        self.new_channels = channels - in_channels
        self.zeros_before = self.new_channels // 2 if zeros == "around" else 0
        self.conv1 = nn.Conv2d(in_channels, channels, 3, stride, dilation, dilation, bias=conv_bias, **dd)
        self.bn1 = norm_layer(channels, **dd)
        self.act1 = act_layer(inplace=True).to(**dd)
        self.conv2 = nn.Conv2d(channels, channels, 3, 1, dilation, dilation, bias=conv_bias, **dd)
        self.bn2 = norm_layer(channels, **dd)
        self.drop_path = DropPath(drop_path) if drop_path > 0 else nn.Identity()
        self.act2 = act_layer(inplace=True).to(**dd)

    def shortcut(self, x: Tensor) -> Tensor:
        """The block's input, in the shape of its output."""
        if self.stride > 1:
            x = x[:, :, :: self.stride, :: self.stride]
        if self.new_channels > 0:
            x = F.pad(x, [0, 0, 0, 0, self.zeros_before, self.new_channels - self.zeros_before])
        return x

    def forward(self, x: Tensor) -> Tensor:
        shortcut = self.shortcut(x)
        x = self.act1(self.bn1(self.conv1(x)))
        x = self.drop_path(self.bn2(self.conv2(x)))
        return self.act2(x + shortcut)


@fuses(CifarBlock)
class FusedCifarBlock(Fused, CifarBlock):
    """`CifarBlock` with BatchNorm, shortcut and activation in one pass."""

    def forward(self, x: Tensor) -> Tensor:
        shortcut = self.shortcut(x)
        conv1, conv2 = self.conv1, self.conv2
        x = conv2(norm_act(conv1(x), self.bn1, self.act1, source=conv1))
        if skips(self.drop_path):
            return norm_act(x, self.bn2, self.act2, shortcut, source=conv2)
        return self.act2(self.drop_path(self.bn2(x)) + shortcut)


class ResNetCifar(Staged, nn.Module):
    """ResNet of 6n+2 layers for small images, output stride 4.

    Args:
        layers: Blocks in each of the three stages (n, n, n).
        num_classes: Classes of the head; 0 for none.
        in_chans: Channels of the input image.
        output_stride: 4, 2 or 1; a smaller one dilates the later stages instead of striding.
        global_pool: timm pooling type of the head.
        act_layer: Activation, as any timm `act_layer`.
        norm_layer: Normalisation, as any timm `norm_layer`.
        drop_rate: Dropout before the head.
        drop_path_rate: Stochastic depth, rising linearly over the blocks.
        conv_bias: Give the convolutions biases, idle before a BatchNorm; those of the LayerAct authors have them.
        shortcut_zeros: Where a shortcut puts the zero channels: ``"around"`` its own, or ``"after"`` them, as the
            LayerAct authors do.

    Shape: ``(N, in_chans, H, W)`` to ``(N, num_classes)``.
    """

    if TYPE_CHECKING:  # TorchScript reads annotations, and takes neither these nor any in __init__
        layer1: nn.Sequential
        layer2: nn.Sequential
        layer3: nn.Sequential

    def __init__(
        self,
        layers: tuple[int, int, int],
        num_classes: int = 10,
        in_chans: int = 3,
        output_stride: int = 4,
        global_pool: str = "avg",
        act_layer: LayerType = nn.ReLU,
        norm_layer: LayerType = nn.BatchNorm2d,
        drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        conv_bias: bool = False,
        shortcut_zeros: str = "around",
        device: Any = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        if shortcut_zeros not in ("around", "after"):
            raise ValueError(f"shortcut_zeros must be 'around' or 'after', got {shortcut_zeros!r}.")
        if output_stride not in (1, 2, 4):
            raise ValueError(f"output_stride of a CIFAR ResNet must be 1, 2 or 4, got {output_stride}.")
        dd: DeviceAndDtype = {"device": device, "dtype": dtype}
        self.num_classes = num_classes
        self.in_chans = in_chans
        self.drop_rate = drop_rate
        self.grad_checkpointing = False
        act: Layer = get_act_layer(act_layer)
        norm: Layer = get_norm_layer(norm_layer)

        self.conv1 = nn.Conv2d(in_chans, 16, 3, 1, 1, bias=conv_bias, **dd)
        self.bn1 = norm(16, **dd)
        self.act1 = act(inplace=True).to(**dd)  # timm's factories leave the device out
        self.feature_info = []  # one feature a stride: the stem has that of the first stage
        block = partial(CifarBlock, act_layer=act, norm_layer=norm, conv_bias=conv_bias, zeros=shortcut_zeros, dd=dd)
        self.num_features = self._add_stages(layers, output_stride, drop_path_rate, block)
        self.global_pool, self.fc = create_classifier(self.num_features, num_classes, pool_type=global_pool)
        self.fc.to(**dd)
        self.head_hidden_size = self.num_features * self.global_pool.feat_mult()
        self.init_weights()

    def _add_stages(
        self, layers: tuple[int, int, int], output_stride: int, drop_path_rate: float, block: Callable[..., CifarBlock]
    ) -> int:
        """Add `layer1` to `layer3` and describe them in `feature_info`; returns the channels of the last."""
        channels = in_channels = 16
        num_blocks, block_index, net_stride, dilation = sum(layers), 0, 1, 1
        for stage, depth in enumerate(layers):
            channels = 16 * 2**stage
            stride = 1 if stage == 0 else 2
            if net_stride * stride > output_stride:
                dilation, stride = dilation * stride, 1
            net_stride *= stride
            blocks = []
            for index in range(depth):
                drop_path = drop_path_rate * block_index / max(1, num_blocks - 1)
                first_stride = stride if index == 0 else 1
                blocks.append(block(in_channels, channels, first_stride, dilation, drop_path=drop_path))
                in_channels = channels
                block_index += 1
            name = f"layer{stage + 1}"
            self.add_module(name, nn.Sequential(*blocks))
            self.feature_info.append(dict(num_chs=channels, reduction=net_stride, module=name))
        return channels

    @torch.jit.ignore
    def init_weights(self) -> None:
        """He initialisation of convolutions (paper v3, appendix H).

        No branch starts at zero (timm's `zero_init_last`): in the channels that a shortcut pads with zeros, ReLU would
        receive 0 forever and pass no gradient back.
        """
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    @torch.jit.ignore
    def group_matcher(self, coarse: bool = False) -> dict[str, str]:
        """Patterns that group parameters by depth, for layer-wise learning rates."""
        return dict(stem=r"^conv1|bn1|act1", blocks=r"^layer(\d+)" if coarse else r"^layer(\d+)\.(\d+)")

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Put a new head of `num_classes` (0 for none) in place, and a new pooling if one is named."""
        self.num_classes = num_classes
        pool_type = self.global_pool.pool_type if global_pool is None else global_pool
        place = get_device_dtype(self)
        self.global_pool, self.fc = create_classifier(self.num_features, num_classes, pool_type=pool_type)
        self.fc.to(**place)
        self.head_hidden_size = self.num_features * self.global_pool.feat_mult()
        self.global_pool.train(self.training)
        self.fc.train(self.training)

    def feature_parts(self) -> list[Callable[[Tensor], Tensor]]:
        """The three stages, the stem in the first."""
        return [self._first_stage, self.layer2, self.layer3]

    def _first_stage(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        return checkpoint_seq(self.layer1, x) if self.grad_checkpointing else self.layer1(x)

    def prune_intermediate_layers(
        self, indices: int | list[int] = 1, prune_norm: bool = False, prune_head: bool = True
    ) -> list[int]:
        """Drop the stages after the last feature asked for, and the head; as timm's method of that name."""
        take, last = feature_take_indices(len(self.feature_info), indices)
        for index in range(last + 1, len(self.feature_info)):
            setattr(self, f"layer{index + 1}", nn.Sequential())
        if last + 1 < len(self.feature_info):
            self.num_features = self.head_hidden_size = self.feature_info[last]["num_chs"]
            prune_head = True
        if prune_head:
            self.reset_classifier(0, "")
        return take

    def stem(self, x: Tensor) -> Tensor:
        """The first convolution and its activation, ``(N, 16, H, W)``."""
        return self.act1(self.bn1(self.conv1(x)))

    def forward_features(self, x: Tensor) -> Tensor:
        """``(N, in_chans, H, W)`` to the last feature map, ``(N, 64, H/4, W/4)``."""
        x = self.stem(x)
        if self.grad_checkpointing and not torch.jit.is_scripting():
            return checkpoint_seq([self.layer1, self.layer2, self.layer3], x, flatten=True)
        return self.layer3(self.layer2(self.layer1(x)))

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Feature map to logits, or to the pooled features with `pre_logits`."""
        x = self.global_pool(x)
        if self.drop_rate > 0.0:
            x = F.dropout(x, p=float(self.drop_rate), training=self.training)
        return x if pre_logits else self.fc(x)

    def forward(self, x: Tensor) -> Tensor:
        return self.forward_head(self.forward_features(x))


@fuses(ResNetCifar)
class FusedResNetCifar(Fused, ResNetCifar):
    """`ResNetCifar` with a fused stem."""

    def stem(self, x: Tensor) -> Tensor:
        return norm_act(self.conv1(x), self.bn1, self.act1, source=self.conv1)


DEPTHS = (20, 32, 44, 56, 110)
# Suffix of the architecture name -> activation name. The paper's HardSiLU is what torch and timm call hardswish.
CIFAR_ACTIVATIONS = {
    "": "relu",
    "_lrelu": "leaky_relu",
    "_prelu": "prelu",
    "_silu": "silu",
    "_hardsilu": "hard_swish",
    "_mish": "mish",
    "_gelu": "gelu",
    "_elu": "elu",
    "_lasilu": "lasilu",
    "_lahardsilu": "lahardsilu",
    "_selu": "selu",
    "_tanh": "tanh",
}
VARIANTS = {suffix: dict(act_layer=name) for suffix, name in CIFAR_ACTIVATIONS.items()} | NORMALIZED
CIFAR_CFG = PretrainedConfig(
    num_classes=10,
    input_size=(3, 32, 32),
    pool_size=(8, 8),
    crop_pct=1.0,
    interpolation="bilinear",
    mean=(0.4914, 0.4822, 0.4465),
    std=(0.2470, 0.2435, 0.2616),
    first_conv="conv1",
    classifier="fc",
    license="apache-2.0",
)

register_variants(
    __name__,
    ResNetCifar,
    {
        f"resnet{depth}{suffix}": (dict(layers=((depth - 2) // 6,) * 3, **acts), CIFAR_CFG)
        for depth in DEPTHS
        for suffix, acts in VARIANTS.items()
    },
    feature_cfg=dict(out_indices=(0, 1, 2)),
)
