"""What timm's networks say of themselves and take, as types."""

from typing import Any, cast

import torch
from torch import nn
from typing_extensions import TypedDict

__all__ = ["DataConfig", "DeviceAndDtype", "FeatureInfo", "PretrainedConfig", "config_of"]


class PretrainedConfig(TypedDict, total=False):
    """timm's `pretrained_cfg`: which network it is, what images it takes, where its weights are.

    Sizes are (C, H, W), but for `pool_size`, (H, W); `mean` and `std` are of each channel, of values in [0, 1].
    """

    architecture: str
    tag: str
    file: str
    hf_hub_id: str
    num_classes: int
    label_names: tuple[str, ...]
    input_size: tuple[int, int, int]
    test_input_size: tuple[int, int, int]
    min_input_size: tuple[int, int, int]
    fixed_input_size: bool
    pool_size: tuple[int, int] | None
    crop_pct: float
    test_crop_pct: float
    crop_mode: str
    interpolation: str
    mean: tuple[float, ...]
    std: tuple[float, ...]
    first_conv: str
    classifier: str | tuple[str, ...]
    license: str
    notes: tuple[str, ...]


class DataConfig(TypedDict):
    """How images become a network's, as `timm.data.resolve_data_config` says and `create_transform` takes."""

    input_size: tuple[int, int, int]
    interpolation: str
    mean: tuple[float, ...]
    std: tuple[float, ...]
    crop_pct: float
    crop_mode: str


class FeatureInfo(TypedDict):
    """A feature map of a network: its channels, its stride, the module that it comes out of."""

    num_chs: int
    reduction: int
    module: str


class DeviceAndDtype(TypedDict):
    """Where the parameters of a module are made, and of which type; None for torch's default."""

    device: Any
    dtype: torch.dtype | None


def config_of(network: nn.Module) -> PretrainedConfig:
    """timm's config of a network, empty where it has none."""
    return cast(PretrainedConfig, getattr(network, "pretrained_cfg", None) or {})
