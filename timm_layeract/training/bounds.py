"""Which values a recipe's keys may have."""

import re

from .._utils.options import Bounds, shortened
from ..errors import UserError

__all__ = ["BOUNDS", "RATES", "SEEDS", "check_auto_augment"]

SEEDS = Bounds(0, 2**32 - 1)  # what every library takes
RATES = Bounds(above=0, most=1e30)  # what a float32 weight can be moved by

_COUNT, _FRACTION, _SIDE = Bounds(1, 10**9), Bounds(0, below=1), Bounds(1, 2**16)
# Of a recipe's numbers, each of them where there are several.
BOUNDS = {
    "epochs": Bounds(0, 10**6),
    "steps": _COUNT,
    "batch_size": Bounds(1, 10**6),
    "accumulate": Bounds(1, 10**6),
    "seed": SEEDS,
    "lr": RATES,
    "weight_decay": Bounds(0, 1000),
    "adversarial_epsilon": Bounds(above=0, most=255),
    "padding": Bounds(0, 2**16),
    "vocab_size": _COUNT,
    "max_tokens": _COUNT,
    "color_jitter": Bounds(0, 10),
    "tile": Bounds(0, 2**16),
    "aug_repeats": Bounds(1, 100),
    **dict.fromkeys(("image_size", "ten_crop", "test_size"), _SIDE),
    **dict.fromkeys(("scale", "crop_pct"), Bounds(above=0, most=1)),
    "ratio": Bounds(above=0, most=100),
    **dict.fromkeys(("mixup", "cutmix"), Bounds(0, 1000)),
    **dict.fromkeys(("mixup_prob", "mixup_switch_prob"), Bounds(0, 1)),
    **dict.fromkeys(("bce_target_thresh", "drop_path"), _FRACTION),
    **dict.fromkeys(
        ("warmup", "label_smoothing", "ema_decay", "momentum", "random_erasing", "validation_fraction", "milestones"),
        _FRACTION,
    ),
}

_NOTATION = re.compile(r"[a-z0-9]+(-[a-z]+[0-9]+(\.[0-9]+)?)*")


def check_auto_augment(policy: str, where: str) -> None:
    """Refuse (UserError) an augmentation that timm does not know; `where` begins the message."""
    from timm.data import create_transform

    try:
        if not _NOTATION.fullmatch(policy):
            raise ValueError("not timm's notation")
        create_transform(is_training=True, auto_augment=policy)
    except (AssertionError, ValueError, LookupError, TypeError) as error:
        raise UserError(
            f"{where} takes timm's notation, such as rand-m7-mstd0.5-inc1, augmix-m3-w3, original or 3a, "
            f"got {shortened(policy)} ({error})."
        ) from error
