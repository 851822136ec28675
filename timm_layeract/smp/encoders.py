"""SMP's ResNet encoders with layer-level activations: ``resnet18_lasilu`` to ``resnet101_lahardsilu``.

They are SMP's own encoders, which are torchvision's ResNets, with alpha 0.1 as in `models.resnet_layeract`. Parameters
are those of the ReLU encoder, so SMP's pretrained weights, torchvision's and timm's all fit: a start for fine-tuning.
"""

from copy import deepcopy
from typing import Any

import segmentation_models_pytorch as smp
from segmentation_models_pytorch.base.modules import Conv2dReLU
from segmentation_models_pytorch.encoders.resnet import ResNetEncoder
from torch import Tensor
from torchvision.models.resnet import BasicBlock, Bottleneck

from ..fuse import Fused, FusedSequential, fuse, fuses, shortcut
from ..layers.batch_norm_act import norm_act
from ..models.resnet_layeract import IMAGENET_ACTIVATIONS
from ..swap import swap_activations

__all__ = ["LAYERACT", "resnet_encoder"]

# Suffix of an encoder's name -> its activation, as for our timm models of the same name.
LAYERACT: dict[str, str] = {suffix: IMAGENET_ACTIVATIONS[suffix]["act_layer"] for suffix in ("_lasilu", "_lahardsilu")}
STOCK = ("resnet18", "resnet34", "resnet50", "resnet101")


def resnet_encoder(*, act_layer: str, **kwargs: Any) -> ResNetEncoder:
    """SMP's `ResNetEncoder` with another activation, fused.

    Args:
        act_layer: Name of a registered activation.
        **kwargs: As SMP's: ``out_channels``, ``depth``, ``output_stride``, ``block``, ``layers``.
    """
    encoder = ResNetEncoder(**kwargs)
    swap_activations(encoder, act_layer)
    return fuse(encoder)


@fuses(ResNetEncoder)
class FusedResNetEncoder(Fused, ResNetEncoder):
    """SMP's `ResNetEncoder`, its stem fused."""

    def forward(self, x: Tensor) -> list[Tensor]:
        features = [x, norm_act(self.conv1(x), self.bn1, self.relu, source=self.conv1)]
        x = self.maxpool(features[-1])
        for stage in (self.layer1, self.layer2, self.layer3, self.layer4)[: self._depth - 1]:
            x = stage(x)
            features.append(x)
        return features


@fuses(BasicBlock)
class FusedTorchvisionBasicBlock(Fused, BasicBlock):
    """torchvision's `BasicBlock`, fused."""

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv2(norm_act(self.conv1(x), self.bn1, self.relu, source=self.conv1))
        return norm_act(y, self.bn2, self.relu, *shortcut(self.downsample, x), source=self.conv2)


@fuses(Bottleneck)
class FusedTorchvisionBottleneck(Fused, Bottleneck):
    """torchvision's `Bottleneck`, fused."""

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv2(norm_act(self.conv1(x), self.bn1, self.relu, source=self.conv1))
        y = self.conv3(norm_act(y, self.bn2, self.relu, source=self.conv2))
        return norm_act(y, self.bn3, self.relu, *shortcut(self.downsample, x), source=self.conv3)


@fuses(Conv2dReLU)
class FusedConv2dReLU(FusedSequential, Conv2dReLU):
    """SMP's `Conv2dReLU`, which the decoders are made of, fused."""


for _stock in STOCK:
    for _suffix, _act_layer in LAYERACT.items():
        _entry = deepcopy(smp.encoders.encoders[_stock])
        _entry["encoder"] = resnet_encoder
        _entry["params"]["act_layer"] = _act_layer
        smp.encoders.encoders[f"{_stock}{_suffix}"] = _entry
