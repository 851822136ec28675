"""How a recipe and a network's config say that images become the network's: settings of timm's transforms.

Networks for small squares are trained on whole images, padded and cropped (`padding`, see `data.augment`); photographs
are cropped at random from their files (`train_crop_mode`). Either way no image is squashed, and what a network is
evaluated by is what `layeract evaluate` takes.
"""

from timm.data import resolve_data_config
from torch import nn
from typing_extensions import TypedDict

from .._utils.timm_types import DataConfig, PretrainedConfig, config_of
from ..data.brightness import record_brightness
from ..data.splits import Split
from ..data.tiles import record_window
from ..data.views import View
from .recipe import Recipe

__all__ = ["evaluation_settings", "record_preprocessing", "test_view", "training_size", "training_view"]


class RandomCrops(TypedDict):
    """Arguments of `timm.data.create_transform` for random crops."""

    input_size: tuple[int, int, int]
    is_training: bool
    train_crop_mode: str
    scale: tuple[float, float] | None
    ratio: tuple[float, float] | None
    hflip: float
    color_jitter: float | None
    auto_augment: str | None
    interpolation: str
    mean: tuple[float, ...]
    std: tuple[float, ...]


def training_size(recipe: Recipe, config: PretrainedConfig) -> tuple[int, int]:
    """(H, W) of the images that a network with this config is trained on."""
    if recipe.image_size:
        return recipe.image_size
    height, width = resolve_data_config(pretrained_cfg=dict(config))["input_size"][1:]
    return height, width


def evaluation_settings(recipe: Recipe, config: PretrainedConfig) -> DataConfig:
    """How held-out and test images are prepared: as the network's config says, but for what the recipe says.

    Args:
        recipe: Its `image_size` stands for whole images where they are not cropped at random in training.
        config: timm's, of the network.

    Returns:
        As `timm.data.resolve_data_config`.
    """
    size, crop_pct = recipe.test_size or recipe.image_size, recipe.crop_pct
    if recipe.train_crop_mode is None and size is not None and crop_pct is None:
        crop_pct = 1.0
    given: dict[str, object] = {
        "crop_pct": crop_pct,
        "crop_mode": recipe.crop_mode,
        "interpolation": recipe.interpolation,
    }
    if size is not None:
        given["input_size"] = (config["input_size"][0], *size)
    settings: DataConfig = resolve_data_config(given, pretrained_cfg=dict(config), use_test_size=size is None)
    return settings


def training_view(recipe: Recipe, config: PretrainedConfig) -> View:
    """How training and held-out images are prepared for a network."""
    settings = evaluation_settings(recipe, config)
    size = training_size(recipe, config)
    if recipe.train_crop_mode is not None:
        return View.of(settings, _random_crops(recipe, recipe.train_crop_mode, size, settings))
    if size == settings["input_size"][1:]:
        return View.of(settings)
    crop_pct = recipe.crop_pct or (1.0 if recipe.image_size else config.get("crop_pct"))
    return View.of(settings, {**settings, "input_size": (3, *size), "crop_pct": crop_pct})


def test_view(recipe: Recipe, config: PretrainedConfig) -> View:
    """How test images are prepared for a network; with ten crops, the images that these are cut from."""
    settings = evaluation_settings(recipe, config)
    if recipe.ten_crop is not None:
        settings |= {"input_size": (3, *recipe.ten_crop), "crop_pct": 1.0}
    return View.of(settings)


def _random_crops(recipe: Recipe, mode: str, size: tuple[int, int], settings: DataConfig) -> RandomCrops:
    """Settings of timm's transforms for training; erasing, mixing and normalising happen on the network's device."""
    return {
        "input_size": (3, *size),
        "is_training": True,
        "train_crop_mode": mode,
        "scale": recipe.scale,
        "ratio": recipe.ratio,
        "hflip": 0.5 if recipe.flip else 0.0,
        "color_jitter": recipe.color_jitter or None,
        "auto_augment": recipe.auto_augment,
        "interpolation": recipe.train_interpolation,
        "mean": settings["mean"],
        "std": settings["std"],
    }


def record_preprocessing(network: nn.Module, recipe: Recipe, train: Split) -> None:
    """Record in a network's config how its images were prepared."""
    record_brightness(network, getattr(train, "brightness", None))
    if recipe.task == "segmentation":
        record_window(network, training_size(recipe, config_of(network))[0], recipe.crop_mode == "squash")
    if recipe.task == "classification":
        _record_evaluation(network, recipe)


def _record_evaluation(network: nn.Module, recipe: Recipe) -> None:
    """Write into a classifier's config the sizes of its images, and how those that it was evaluated on were made."""
    config: PretrainedConfig = {**config_of(network)}
    settings, size = evaluation_settings(recipe, config), training_size(recipe, config)
    channels, height, width = settings["input_size"]
    config["crop_mode"] = settings["crop_mode"]
    config["interpolation"] = settings["interpolation"]
    config["input_size"] = (channels, *size)
    if (height, width) == size:
        config.pop("test_input_size", None)
        config.pop("test_crop_pct", None)
        config["crop_pct"] = settings["crop_pct"]
    else:
        config |= {"test_input_size": settings["input_size"], "test_crop_pct": settings["crop_pct"]}
    network.pretrained_cfg = config  # type: ignore[assignment]
