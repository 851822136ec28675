"""What U-Net and UNet++ share: the way down, a node of the way up, and what timm asks of a model."""

from collections import OrderedDict
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from timm.layers import LayerType, get_act_layer, get_norm_layer
from timm.models import checkpoint
from torch import Tensor, nn

from .._utils.timm_types import DeviceAndDtype, FeatureInfo
from ..compat.timm import feature_take_indices, get_device_dtype
from ._builder import RecordsActivations

__all__ = ["DEPTH", "Block", "Node", "UNetBase"]

DEPTH = 4  # times that both papers halve the image
Block = Callable[[int, int], nn.Sequential]


def conv_block(
    in_channels: int,
    channels: int,
    act: Callable[..., nn.Module],
    norm: Callable[..., nn.Module] | None,
    dd: DeviceAndDtype,
) -> nn.Sequential:
    """3x3 convolution, normalisation (if any) and activation, twice; `fuse` knows such a Sequential."""
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    for number, inputs in ((1, in_channels), (2, channels)):
        layers[f"conv{number}"] = nn.Conv2d(inputs, channels, 3, padding=1, bias=norm is None, **dd)
        if norm is not None:
            layers[f"bn{number}"] = norm(channels, **dd)
        layers[f"act{number}"] = act(inplace=True).to(**dd)  # timm's factories leave the device out
    return nn.Sequential(layers)


class Node(nn.Module):
    """A step up the U: features from the level below, upsampled, behind those of this level, through a block.

    Args:
        channels: Channels of this level; below there are twice as many.
        skips: How many feature maps of this level go in.
        block: Makes a block of so many channels in and out.
        dd: Device and dtype.
    """

    def __init__(self, channels: int, skips: int, block: Block, dd: DeviceAndDtype) -> None:
        super().__init__()
        self.up = nn.ConvTranspose2d(2 * channels, channels, 2, stride=2, **dd)
        self.block = block((skips + 1) * channels, channels)

    def forward(self, below: Tensor, skips: list[Tensor]) -> Tensor:
        x = self.up(below)
        rows, columns = skips[0].shape[-2] - x.shape[-2], skips[0].shape[-1] - x.shape[-1]
        if rows > 0 or columns > 0:  # an odd row or column was lost in pooling
            x = F.pad(x, [0, columns, 0, rows], mode="replicate")
        return self.block(torch.cat(skips + [x], dim=1))  # noqa: RUF005 (TorchScript has no unpacking)


class UNetBase(RecordsActivations, nn.Module):
    """The way down that both networks share, and what timm asks of a model.

    Convolutions are padded (Ronneberger's are not, and lose a margin), so the output has the size of the input.

    Args:
        width: Channels at full size, doubled at each halving.
        num_classes: Channels of the output; 0 for the features before it.
        in_chans: Channels of the input image.
        act_layer: Activation, as any timm `act_layer`.
        norm_layer: Normalisation, as any timm `norm_layer`; None for none, as in the papers.
        drop_rate: Dropout at the bottom of the U.

    Shape: ``(N, in_chans, H, W)`` to ``(N, num_classes, H, W)``; H and W are at least 16, and need no divisor.
    """

    if TYPE_CHECKING:  # TorchScript reads annotations
        feature_info: list[FeatureInfo]

    def __init__(
        self,
        width: int = 32,
        num_classes: int = 1,
        in_chans: int = 3,
        act_layer: LayerType = nn.ReLU,
        norm_layer: LayerType | None = nn.BatchNorm2d,
        drop_rate: float = 0.0,
        device: Any = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        dd: DeviceAndDtype = {"device": device, "dtype": dtype}
        self.num_classes = num_classes
        self.in_chans = in_chans
        self.drop_rate = drop_rate
        self.grad_checkpointing = False
        self.num_features = self.head_hidden_size = width
        channels = [width * 2**level for level in range(DEPTH + 1)]
        block: Block = partial(conv_block, act=get_act_layer(act_layer), norm=get_norm_layer(norm_layer), dd=dd)
        self.encoder = nn.ModuleList(block(*pair) for pair in zip([in_chans, *channels[:-1]], channels, strict=True))
        self.feature_info = [
            FeatureInfo(num_chs=count, reduction=2**level, module=f"encoder.{level}")
            for level, count in enumerate(channels)
        ]
        self.nodes = self._nodes(channels, block, dd)
        self.heads = nn.ModuleList(self._head(dd) for _ in range(self._head_count()))
        self.init_weights()

    def _nodes(self, channels: list[int], block: Block, dd: DeviceAndDtype) -> nn.ModuleList:
        """The way up."""
        raise NotImplementedError

    def _head_count(self) -> int:
        """Outputs in training."""
        return 1

    def _head(self, dd: DeviceAndDtype) -> nn.Module:
        return nn.Conv2d(self.num_features, self.num_classes, 1, **dd) if self.num_classes else nn.Identity()

    @torch.jit.ignore
    def init_weights(self) -> None:
        """He initialisation over the incoming nodes (Ronneberger et al. 2015, section 3), biases at zero."""
        for name, module in self.named_modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, nonlinearity="linear" if "heads" in name else "relu")
            elif isinstance(module, nn.ConvTranspose2d):  # each output pixel sees one input pixel; no activation behind
                nn.init.normal_(module.weight, std=module.in_channels**-0.5)
            if isinstance(module, nn.Conv2d | nn.ConvTranspose2d) and module.bias is not None:
                nn.init.zeros_(module.bias)

    @torch.jit.ignore
    def group_matcher(self, coarse: bool = False) -> dict[str, object]:
        """Patterns that group parameters by depth, for layer-wise learning rates: down the U, up, out."""
        return dict(stem=r"^encoder\.0", blocks=[(r"^encoder\.(\d+)", None), (r"^nodes", (DEPTH + 1,))])

    @torch.jit.ignore
    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Recompute the blocks in backward instead of keeping their activations."""
        self.grad_checkpointing = enable

    @torch.jit.ignore
    def get_classifier(self, name_only: bool = False) -> Any:
        """The output convolutions, or the name of their list."""
        return "heads" if name_only else self.heads

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Put new output convolutions of `num_classes` (0 for none) in place; there is no pooling to name."""
        self.num_classes = num_classes
        dd = get_device_dtype(self)
        self.heads = nn.ModuleList(self._head(dd) for _ in self.heads).train(self.training)

    def encode(self, x: Tensor, halvings: int = DEPTH) -> list[Tensor]:
        """The image to the features of each level, ``(N, width * 2**i, H / 2**i, W / 2**i)``."""
        features: list[Tensor] = []
        for level, block in enumerate(self.encoder):
            if level <= halvings:
                if level > 0:
                    x = F.max_pool2d(features[-1], 2)
                if self.grad_checkpointing and not torch.jit.is_scripting():
                    features.append(checkpoint(block, x))
                else:
                    features.append(block(x))
        if self.drop_rate > 0.0:
            features[-1] = F.dropout(features[-1], p=float(self.drop_rate), training=self.training)
        return features

    def forward_intermediates(
        self,
        x: Tensor,
        indices: int | list[int] | None = None,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: str = "NCHW",
        intermediates_only: bool = False,
    ) -> Any:
        """Features of the levels of the encoder, as timm's method of that name.

        Args:
            x: Images ``(N, in_chans, H, W)``.
            indices: The last n if an int, those listed if a list, all if None.
            norm: Accepted for timm's interface; levels end in an activation, there is no norm to apply.
            stop_early: Run no level below the last one asked for; only with `intermediates_only`.
            output_fmt: Only ``"NCHW"``.
            intermediates_only: Return the list alone, without what `forward_features` gives.
        """
        if output_fmt != "NCHW":
            raise ValueError(f"output_fmt must be 'NCHW', got {output_fmt!r}.")
        take, last = feature_take_indices(len(self.feature_info), indices)
        features = self.encode(x, last if stop_early and intermediates_only else DEPTH)
        chosen = [features[index] for index in take]
        return chosen if intermediates_only else (self.decode(features), chosen)

    def decode(self, features: list[Tensor]) -> Any:
        """Features of the encoder to those that the heads read."""
        raise NotImplementedError

    def prune_intermediate_layers(
        self, indices: int | list[int] = 1, prune_norm: bool = False, prune_head: bool = True
    ) -> list[int]:
        """Drop the levels below the last feature asked for, and with any of them the way up, which needs them all."""
        take, last = feature_take_indices(len(self.feature_info), indices)
        if prune_head or last < DEPTH:
            self.encoder = self.encoder[: last + 1]
            self.nodes, self.heads = nn.ModuleList(), nn.ModuleList()
        return take
