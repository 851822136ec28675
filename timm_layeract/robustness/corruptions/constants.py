"""Names, categories and strengths of the corruptions.

The strengths are those of the programs that made CIFAR-10-C, Tiny-ImageNet-C and ImageNet-C
(github.com/hendrycks/robustness, ImageNet-C/create_c); one value a severity, a tuple where an algorithm takes several.
"""

from collections.abc import Sequence
from typing import Any

from ...errors import UserError, did_you_mean

__all__ = [
    "CATEGORIES",
    "COMMON",
    "CORRUPTIONS",
    "QUICK_CATEGORY",
    "QUICK_IMAGES",
    "SEVERITIES",
    "SIMPLE",
    "benchmark_of",
    "category_of",
    "check_name",
    "expand_names",
    "strength",
]

SEVERITIES = (1, 2, 3, 4, 5)
CATEGORIES: dict[str, tuple[str, ...]] = {
    "noise": ("gaussian_noise", "shot_noise", "impulse_noise"),
    "blur": ("defocus_blur", "glass_blur", "motion_blur", "zoom_blur"),
    "weather": ("snow", "frost", "fog", "brightness"),
    "digital": ("contrast", "elastic_transform", "pixelate", "jpeg_compression"),
    "extra": ("speckle_noise", "gaussian_blur", "spatter", "saturate"),
}
CORRUPTIONS = tuple(name for names in CATEGORIES.values() for name in names)
# The fifteen that public leaderboards average over; the extra ones are meant for validation.
COMMON = tuple(name for name in CORRUPTIONS if name not in CATEGORIES["extra"])
# The paper's fourth version names these three without their strengths, which are ours; they count in no total.
SIMPLE: dict[str, tuple[str, tuple[float, ...]]] = {
    "simple_gaussian_noise": ("gaussian_noise", (0.05, 0.1, 0.15, 0.2, 0.25)),
    "simple_poisson_noise": ("shot_noise", (255, 120, 60, 30, 15)),
    "simple_gaussian_blur": ("gaussian_blur", (0.5, 0.75, 1.0, 1.25, 1.5)),
}

# What the tuples hold.
#   defocus_blur: radius, width of its antialiasing. glass_blur: sigma, reach, rounds. motion_blur: radius, sigma.
#   zoom_blur: largest zoom, step. snow: mean, deviation, zoom, threshold, radius and sigma of the motion, share of the
#   image kept. frost: share of the image, of the frost. fog: amount, decay of its roughness.
#   elastic_transform: shift in pixels, its smoothness in pixels, reach of the corners. saturate: factor, offset.
#   spatter: mean, deviation, sigma, threshold, opacity (water) or sigma (mud), 1 for mud.
_STRENGTHS: dict[str, dict[str, tuple[Any, ...]]] = {
    "CIFAR-10-C": {
        "gaussian_noise": (0.04, 0.06, 0.08, 0.09, 0.10),
        "shot_noise": (500, 250, 100, 75, 50),
        "impulse_noise": (0.01, 0.02, 0.03, 0.05, 0.07),
        "speckle_noise": (0.06, 0.1, 0.12, 0.16, 0.2),
        "gaussian_blur": (0.4, 0.6, 0.7, 0.8, 1),
        "defocus_blur": ((0.3, 0.4), (0.4, 0.5), (0.5, 0.6), (1, 0.2), (1.5, 0.1)),
        "glass_blur": ((0.05, 1, 1), (0.25, 1, 1), (0.4, 1, 1), (0.25, 1, 2), (0.4, 1, 2)),
        "motion_blur": ((6, 1), (6, 1.5), (6, 2), (8, 2), (9, 2.5)),
        "zoom_blur": ((1.06, 0.01), (1.11, 0.01), (1.16, 0.01), (1.21, 0.01), (1.26, 0.01)),
        "snow": (
            (0.1, 0.2, 1, 0.6, 8, 3, 0.95),
            (0.1, 0.2, 1, 0.5, 10, 4, 0.9),
            (0.15, 0.3, 1.75, 0.55, 10, 4, 0.9),
            (0.25, 0.3, 2.25, 0.6, 12, 6, 0.85),
            (0.3, 0.3, 1.25, 0.65, 14, 12, 0.8),
        ),
        "frost": ((1, 0.2), (1, 0.3), (0.9, 0.4), (0.85, 0.4), (0.75, 0.45)),
        "fog": ((0.2, 3), (0.5, 3), (0.75, 2.5), (1, 2), (1.5, 1.75)),
        "brightness": (0.05, 0.1, 0.15, 0.2, 0.3),
        "contrast": (0.75, 0.5, 0.4, 0.3, 0.15),
        "elastic_transform": ((0, 0, 2.56), (1.6, 6.4, 2.24), (2.56, 1.92, 1.92), (3.2, 1.28, 1.6), (3.2, 0.96, 0.96)),
        "pixelate": (0.95, 0.9, 0.85, 0.75, 0.65),
        "jpeg_compression": (80, 65, 58, 50, 40),
        "saturate": ((0.3, 0), (0.1, 0), (1.5, 0), (2, 0.1), (2.5, 0.2)),
        "spatter": (
            (0.62, 0.1, 0.7, 0.7, 0.5, 0),
            (0.65, 0.1, 0.8, 0.7, 0.5, 0),
            (0.65, 0.3, 1, 0.69, 0.5, 0),
            (0.65, 0.1, 0.7, 0.69, 0.6, 1),
            (0.65, 0.1, 0.5, 0.68, 0.6, 1),
        ),
    },
    "Tiny-ImageNet-C": {
        "gaussian_noise": (0.04, 0.08, 0.12, 0.15, 0.18),
        "shot_noise": (250, 100, 50, 30, 15),
        "impulse_noise": (0.01, 0.02, 0.05, 0.08, 0.14),
        "speckle_noise": (0.15, 0.2, 0.25, 0.3, 0.35),
        "gaussian_blur": (0.5, 0.75, 1, 1.25, 1.5),
        "defocus_blur": ((0.5, 0.6), (1, 0.1), (1.5, 0.1), (2.5, 0.01), (3, 0.1)),
        "glass_blur": ((0.1, 1, 1), (0.5, 1, 1), (0.6, 1, 2), (0.7, 2, 1), (0.9, 2, 2)),
        "motion_blur": ((10, 1), (10, 1.5), (10, 2), (10, 2.5), (12, 3)),
        "zoom_blur": ((1.06, 0.01), (1.11, 0.01), (1.16, 0.01), (1.21, 0.01), (1.26, 0.01)),
        "snow": (
            (0.1, 0.2, 1, 0.6, 8, 3, 0.8),
            (0.1, 0.2, 1, 0.5, 10, 4, 0.8),
            (0.15, 0.3, 1.75, 0.55, 10, 4, 0.7),
            (0.25, 0.3, 2.25, 0.6, 12, 6, 0.65),
            (0.3, 0.3, 1.25, 0.65, 14, 12, 0.6),
        ),
        "frost": ((1, 0.3), (0.9, 0.4), (0.8, 0.45), (0.75, 0.5), (0.7, 0.55)),
        "fog": ((0.4, 3), (0.7, 3), (1, 2.5), (1.5, 2), (2, 1.75)),
        "brightness": (0.1, 0.2, 0.3, 0.4, 0.5),
        "contrast": (0.4, 0.3, 0.2, 0.1, 0.05),
        "elastic_transform": (
            (0, 0, 5.12),
            (3.2, 19.2, 3.84),
            (6.4, 5.12, 3.84),
            (6.4, 1.92, 1.92),
            (10.24, 1.92, 1.28),
        ),
        "pixelate": (0.9, 0.8, 0.7, 0.6, 0.5),
        "jpeg_compression": (65, 58, 50, 40, 25),
        "saturate": ((0.3, 0), (0.1, 0), (2, 0), (5, 0.1), (30, 0.2)),
        "spatter": (
            (0.62, 0.1, 0.7, 0.7, 0.6, 0),
            (0.65, 0.1, 0.8, 0.7, 0.6, 0),
            (0.65, 0.3, 1, 0.69, 0.6, 0),
            (0.65, 0.1, 0.7, 0.68, 0.6, 1),
            (0.65, 0.1, 0.5, 0.67, 0.6, 1),
        ),
    },
    "ImageNet-C": {
        "gaussian_noise": (0.08, 0.12, 0.18, 0.26, 0.38),
        "shot_noise": (60, 25, 12, 5, 3),
        "impulse_noise": (0.03, 0.06, 0.09, 0.17, 0.27),
        "speckle_noise": (0.15, 0.2, 0.35, 0.45, 0.6),
        "gaussian_blur": (1, 2, 3, 4, 6),
        "defocus_blur": ((3, 0.1), (4, 0.5), (6, 0.5), (8, 0.5), (10, 0.5)),
        "glass_blur": ((0.7, 1, 2), (0.9, 2, 1), (1, 2, 3), (1.1, 3, 2), (1.5, 4, 2)),
        "motion_blur": ((10, 3), (15, 5), (15, 8), (15, 12), (20, 15)),
        "zoom_blur": ((1.11, 0.01), (1.16, 0.01), (1.21, 0.02), (1.26, 0.02), (1.31, 0.03)),
        "snow": (
            (0.1, 0.3, 3, 0.5, 10, 4, 0.8),
            (0.2, 0.3, 2, 0.5, 12, 4, 0.7),
            (0.55, 0.3, 4, 0.9, 12, 8, 0.7),
            (0.55, 0.3, 4.5, 0.85, 12, 8, 0.65),
            (0.55, 0.3, 2.5, 0.85, 12, 12, 0.55),
        ),
        "frost": ((1, 0.4), (0.8, 0.6), (0.7, 0.7), (0.65, 0.7), (0.6, 0.75)),
        "fog": ((1.5, 2), (2.0, 2), (2.5, 1.7), (2.5, 1.5), (3.0, 1.4)),
        "brightness": (0.1, 0.2, 0.3, 0.4, 0.5),
        "contrast": (0.4, 0.3, 0.2, 0.1, 0.05),
        # The original multiplies by 244, not 224.
        "elastic_transform": (
            (488, 170.8, 24.4),
            (488, 19.52, 48.8),
            (12.2, 2.44, 4.88),
            (17.08, 2.44, 4.88),
            (29.28, 2.44, 4.88),
        ),
        "pixelate": (0.6, 0.5, 0.4, 0.3, 0.25),
        "jpeg_compression": (25, 18, 15, 10, 7),
        "saturate": ((0.3, 0), (0.1, 0), (2, 0), (5, 0.1), (20, 0.2)),
        "spatter": (
            (0.65, 0.3, 4, 0.69, 0.6, 0),
            (0.65, 0.3, 3, 0.68, 0.6, 0),
            (0.65, 0.3, 2, 0.68, 0.5, 0),
            (0.65, 0.3, 1, 0.65, 1.5, 1),
            (0.67, 0.4, 1, 0.65, 1.5, 1),
        ),
    },
}
# A quick look at robustness: one category, on the first images.
QUICK_CATEGORY, QUICK_IMAGES = "noise", 2000
# Longest side up to which each benchmark's strengths apply, and what it scales the frost photographs by.
_SIZES = {"CIFAR-10-C": (32, 0.2), "Tiny-ImageNet-C": (64, 0.3), "ImageNet-C": (None, 1.0)}


def benchmark_of(height: int, width: int) -> str:
    """The benchmark whose strengths fit images of this size: CIFAR-10-C up to 32 pixels, Tiny-ImageNet-C up to 64."""
    return next(name for name, (side, _) in _SIZES.items() if side is None or max(height, width) <= side)


def category_of(name: str) -> str:
    """``noise``, ``blur``, ``weather``, ``digital``, ``extra``, or ``simple`` for the three outside the benchmark."""
    return next((category for category, names in CATEGORIES.items() if name in names), "simple")


def check_name(name: str) -> None:
    """Refuse a corruption that does not exist, with close names.

    Raises:
        UserError: No corruption is called that.
    """
    if name not in CORRUPTIONS and name not in SIMPLE:
        raise UserError(f"There is no corruption {name!r}; {did_you_mean(name, (*CORRUPTIONS, *SIMPLE))}")


def strength(name: str, severity: int, benchmark: str) -> Any:
    """What the corruption's algorithm takes at a severity, 1 to 5.

    Raises:
        UserError: No such corruption or severity.
    """
    check_name(name)
    if severity not in SEVERITIES:
        raise UserError(f"Severities are 1 to 5, got {severity}.")
    if name in SIMPLE:
        return SIMPLE[name][1][severity - 1]
    value = _STRENGTHS[benchmark][name][severity - 1]
    return (*value, _SIZES[benchmark][1]) if name == "frost" else value


def expand_names(names: Sequence[str]) -> list[str]:
    """Corruptions by name, with a category's name for all of its own.

    Raises:
        UserError: No such corruption or category.
    """
    categories = {**CATEGORIES, "simple": tuple(SIMPLE)}
    expanded = [name for given in names for name in categories.get(given, (given,))]
    for name in expanded:
        check_name(name)
    return list(dict.fromkeys(expanded))
