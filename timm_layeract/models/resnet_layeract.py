"""ImageNet-size ResNets with layer-level activations: timm's own network, with alpha 0.1 (LayerAct v3, appendix H).

Every plain and -d ResNet of timm from 18 to 152 layers, two ResNeXts, two wide ResNets and SE-ResNet-50, each with
LA-SiLU (`_lasilu`) and LA-HardSiLU (`_lahardsilu`). They keep timm's parameter names and shapes, so weights of the
stock model fit. The same networks with normalized activations (`_nrelu`, `_nswish`) have no affine in the BatchNorms
before these.
"""

from collections.abc import Mapping

from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.models.resnet import BasicBlock, Bottleneck, ResNet

from .._utils.timm_types import PretrainedConfig
from ..fuse import FusedStem, fuses
from ._builder import NORMALIZED, RecordsActivations, register_variants

__all__ = ["ResNetLayerAct"]


class ResNetLayerAct(RecordsActivations, ResNet):
    """timm's `ResNet` whose saved config records its activations; arguments, shapes and methods are timm's."""


@fuses(ResNetLayerAct)
class FusedResNetLayerAct(ResNetLayerAct, FusedStem):
    """`ResNetLayerAct`, fused."""


# Suffix of the architecture name -> its activations.
IMAGENET_ACTIVATIONS = {
    "_lasilu": dict(act_layer="lasilu_imagenet"),
    "_lahardsilu": dict(act_layer="lahardsilu_imagenet"),
    **NORMALIZED,
}

D_STEM = dict(stem_width=32, stem_type="deep", avg_down=True)
RESNETS: dict[str, dict[str, object]] = {
    "resnet18": dict(block=BasicBlock, layers=(2, 2, 2, 2)),
    "resnet18d": dict(block=BasicBlock, layers=(2, 2, 2, 2), **D_STEM),
    "resnet26": dict(block=Bottleneck, layers=(2, 2, 2, 2)),
    "resnet26d": dict(block=Bottleneck, layers=(2, 2, 2, 2), **D_STEM),
    "resnet34": dict(block=BasicBlock, layers=(3, 4, 6, 3)),
    "resnet34d": dict(block=BasicBlock, layers=(3, 4, 6, 3), **D_STEM),
    "resnet50": dict(block=Bottleneck, layers=(3, 4, 6, 3)),
    "resnet50d": dict(block=Bottleneck, layers=(3, 4, 6, 3), **D_STEM),
    "resnet101": dict(block=Bottleneck, layers=(3, 4, 23, 3)),
    "resnet101d": dict(block=Bottleneck, layers=(3, 4, 23, 3), **D_STEM),
    "resnet152": dict(block=Bottleneck, layers=(3, 8, 36, 3)),
    "resnet152d": dict(block=Bottleneck, layers=(3, 8, 36, 3), **D_STEM),
    "resnext50_32x4d": dict(block=Bottleneck, layers=(3, 4, 6, 3), cardinality=32, base_width=4),
    "resnext101_32x8d": dict(block=Bottleneck, layers=(3, 4, 23, 3), cardinality=32, base_width=8),
    "wide_resnet50_2": dict(block=Bottleneck, layers=(3, 4, 6, 3), base_width=128),
    "wide_resnet101_2": dict(block=Bottleneck, layers=(3, 4, 23, 3), base_width=128),
    # The ReLU and the sigmoid inside squeeze-and-excitation stay as timm builds them: they compute a gate from the
    # pooled (N, C, 1, 1) vector. The papers replace the activation after a normalised convolution, whose statistics
    # over (C, H, W) are what a layer-level activation reads.
    "seresnet50": dict(block=Bottleneck, layers=(3, 4, 6, 3), block_args=dict(attn_layer="se")),
}


def _cfg(model_args: Mapping[str, object]) -> PretrainedConfig:
    """What an architecture declares of itself to timm; its stem tells the name of the first convolution."""
    return PretrainedConfig(
        num_classes=1000,
        input_size=(3, 224, 224),
        pool_size=(7, 7),
        crop_pct=0.875,
        interpolation="bilinear",
        mean=IMAGENET_DEFAULT_MEAN,
        std=IMAGENET_DEFAULT_STD,
        first_conv="conv1.0" if "stem_type" in model_args else "conv1",
        classifier="fc",
        license="apache-2.0",
    )


register_variants(
    __name__,
    ResNetLayerAct,
    {
        f"{name}{suffix}": (dict(model_args, **acts), _cfg(model_args))
        for name, model_args in RESNETS.items()
        for suffix, acts in IMAGENET_ACTIVATIONS.items()
    },
)
