"""U-Net (Ronneberger et al. 2015) and UNet++ (Zhou et al. 2018): an image in, a map of logits of the same size out.

The networks of the LayerAct paper's segmentation experiment (v3, table 14) as timm models: two widths, with and without
BatchNorm (`_nobn`), UNet++ with and without deep supervision (`_dsv`), each with ReLU, SiLU, LA-SiLU and LA-HardSiLU.
"""

from functools import partial
from typing import Any

import torch
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.layers import LayerType
from timm.models import checkpoint
from torch import Tensor, nn

from .._utils.timm_types import DeviceAndDtype, PretrainedConfig
from ..compat.timm import update_model_args
from ._builder import NORMALIZED, Variant, register_variants
from ._unet_parts import DEPTH, Block, Node, UNetBase

__all__ = ["UNet", "UNetPlusPlus"]


class UNet(UNetBase):
    """U-Net: a node for each level, which joins the encoder's features (Ronneberger et al. 2015, figure 1).

    Arguments and shape as `UNetBase`.
    """

    def _nodes(self, channels: list[int], block: Block, dd: DeviceAndDtype) -> nn.ModuleList:
        return nn.ModuleList(Node(count, 1, block, dd) for count in channels[-2::-1])

    def decode(self, features: list[Tensor]) -> Tensor:
        x = features[-1]
        for step, node in enumerate(self.nodes):
            skips = [features[len(features) - 2 - step]]
            if self.grad_checkpointing and not torch.jit.is_scripting():
                x = checkpoint(node, x, skips)
            else:
                x = node(x, skips)
        return x

    def forward_features(self, x: Tensor) -> Tensor:
        """``(N, in_chans, H, W)`` to ``(N, width, H, W)``."""
        return self.decode(self.encode(x))

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Features to logits, or back as they are with `pre_logits`."""
        return x if pre_logits else self.heads[0](x)

    def forward(self, x: Tensor) -> Tensor:
        return self.forward_head(self.forward_features(x))


class UNetPlusPlus(UNetBase):
    """UNet++: nodes X(i, j) at every level, each joining all before it at its level (Zhou et al. 2018, equation 1).

    Args:
        deep_supervision: Give each of X(0, 1) to X(0, 4) an output. In training all are returned, stacked in front
            and shallowest first, ``(4, N, num_classes, H, W)``; in evaluation their mean, the paper's accurate mode,
            taken over the logits.
        eval_depth: Evaluate by the output of X(0, eval_depth) alone and skip what it does not need, the paper's fast
            mode and pruning; see `set_eval_depth`.
        **kwargs: As `UNetBase`.
    """

    def __init__(self, *, deep_supervision: bool = False, eval_depth: int | None = None, **kwargs: Any) -> None:
        self.outputs = DEPTH if deep_supervision else 1
        super().__init__(**kwargs)
        self.eval_depth = self._checked(eval_depth)

    def _head_count(self) -> int:
        return self.outputs

    def _nodes(self, channels: list[int], block: Block, dd: DeviceAndDtype) -> nn.ModuleList:
        # nodes[j - 1][i] is X(i, j)
        return nn.ModuleList(
            nn.ModuleList(Node(channels[level], column, block, dd) for level in range(DEPTH + 1 - column))
            for column in range(1, DEPTH + 1)
        )

    def _checked(self, depth: int | None) -> int | None:
        if depth is not None and self.outputs == 1:
            raise ValueError("Without deep supervision only the deepest node has an output: leave eval_depth out.")
        if depth is not None and not 1 <= depth <= DEPTH:
            raise ValueError(f"eval_depth must lie in [1, {DEPTH}], got {depth}.")
        return depth

    @torch.jit.ignore
    def set_eval_depth(self, depth: int | None) -> None:
        """Evaluate by the output of X(0, depth) alone, without the nodes it does not need; by all if None."""
        self.eval_depth = self._checked(depth)
        update_model_args(self, eval_depth=depth)

    def decode(self, features: list[Tensor]) -> list[Tensor]:
        before = [[feature] for feature in features]  # before[i] holds X(i, 0), X(i, 1), ...
        for column in self.nodes[: len(features) - 1]:
            for level in range(len(features) - len(before[0])):
                node, below = column[level], before[level + 1][-1]  # type: ignore[index]
                run = partial(checkpoint, node) if self.grad_checkpointing else node
                before[level].append(run(below, list(before[level])))  # a copy, as checkpointing calls again later
        return before[0][1:]

    def forward_features(self, x: Tensor) -> list[Tensor]:
        """``(N, in_chans, H, W)`` to X(0, 1), X(0, 2), ..., each ``(N, width, H, W)``."""
        halvings = DEPTH if self.training or self.eval_depth is None else self.eval_depth
        return self.decode(self.encode(x, halvings))

    def forward_head(self, x: list[Tensor], pre_logits: bool = False) -> Any:
        """Features to logits (all outputs in training with deep supervision), or back as they are with `pre_logits`."""
        if pre_logits:
            return x
        if self.outputs == 1:
            return self.heads[0](x[-1])
        if self.eval_depth is not None and not self.training:
            return self.heads[self.eval_depth - 1](x[-1])
        logits = torch.stack([head(feature) for head, feature in zip(self.heads, x, strict=True)])
        return logits if self.training else logits.mean(0)

    def forward(self, x: Tensor) -> Tensor:
        return self.forward_head(self.forward_features(x))


# Suffix of the architecture name -> activation. The paper does not say its alpha; ours is that of small networks.
UNET_ACTIVATIONS: dict[str, dict[str, str]] = {
    "": dict(act_layer="relu"),
    "_silu": dict(act_layer="silu"),
    "_lasilu": dict(act_layer="lasilu"),
    "_lahardsilu": dict(act_layer="lahardsilu"),
    **NORMALIZED,
}
WIDTHS = {"": 32, "_w64": 64}
NORMS: dict[str, LayerType | None] = {"": "batchnorm2d", "_nobn": None}


def _cfg(heads: int) -> PretrainedConfig:
    """What an architecture declares of itself to timm."""
    return PretrainedConfig(
        num_classes=1,
        input_size=(3, 256, 256),
        min_input_size=(3, 16, 16),
        crop_pct=1.0,
        interpolation="bilinear",
        mean=IMAGENET_DEFAULT_MEAN,
        std=IMAGENET_DEFAULT_STD,
        first_conv="encoder.0.conv1",
        classifier=tuple(f"heads.{index}" for index in range(heads)),
        license="apache-2.0",
    )


def _variants(name: str, heads: int = 1, **model_args: Any) -> dict[str, Variant]:
    """A network in every width, with and without BatchNorm, with every activation."""
    return {
        f"{name}{wide}{bn}{suffix}": (
            dict(model_args, width=width, norm_layer=norm_layer, **acts),
            _cfg(heads),
        )
        for wide, width in WIDTHS.items()
        for bn, norm_layer in NORMS.items()
        for suffix, acts in UNET_ACTIVATIONS.items()
    }


FEATURES: dict[str, object] = dict(out_indices=tuple(range(DEPTH + 1)), feature_cls="getter")
register_variants(__name__, UNet, _variants("unet"), feature_cfg=FEATURES)
register_variants(
    __name__,
    UNetPlusPlus,
    {**_variants("unetplusplus"), **_variants("unetplusplus_dsv", heads=DEPTH, deep_supervision=True)},
    feature_cfg=FEATURES,
)
