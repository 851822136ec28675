"""Which values of an image of more than 8 bits a channel are black and white, and the image in 8 bits by them."""

import math
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
from torch import nn

from .notes import read_note, write_note

__all__ = ["Brightness", "record_brightness", "recorded_brightness", "to_8_bits"]

NOTE = "trained on images whose values run from {} to {}"  # in timm's config
BIT_DEPTHS = (8, 12, 16)  # that cameras mostly have


class Brightness(NamedTuple):
    """The values that become 0 and 255, by what is usual rather than by the brightest pixel.

    Integers are taken to have the fewest bits, of 8, 12 and 16, that hold 999 of 1,000 of the values (a tenth more, for
    what a camera adds), so that a hot pixel changes nothing and an empty field stays flat; what is above is white.
    Floating-point numbers up to 1 run from 0 to 1, larger ones as integers. Where values lie below 0, they run from the
    lowest to the highest, but for one in 1,000 at each end.
    """

    black: float
    white: float

    @classmethod
    def of(cls, values: np.ndarray) -> "Brightness":
        """What the values of one image say."""
        finite = values[np.isfinite(values)].astype(np.float64)
        low, high = np.percentile(finite, (0.1, 99.9)).tolist() if finite.size else (0.0, 0.0)
        if low < 0:
            return cls(low, max(high, low + 1e-12))
        if np.issubdtype(values.dtype, np.floating) and high <= 1:
            return cls(0.0, 1.0)
        return cls(0.0, max(2.0 ** _bits(high) - 1, high))

    @classmethod
    def of_all(cls, images: Iterable["Brightness"]) -> "Brightness | None":
        """Common range of several images' values, which keeps dim images dimmer than bright ones; None of none."""
        blacks, whites = zip(*found, strict=True) if (found := list(images)) else ((), ())
        return cls(min(blacks), max(whites)) if found else None

    def __str__(self) -> str:
        return f"{self.black:g} to {self.white:g}"


def to_8_bits(values: np.ndarray, brightness: Brightness | None = None) -> np.ndarray:
    """Values of any kind as uint8.

    Args:
        values: One channel or several. Values that are not finite become black, infinity white.
        brightness: Brightness of the set that the image belongs to; its own if None.
    """
    black, white = brightness or Brightness.of(values)
    numbers = np.nan_to_num(values.astype(np.float64), nan=black, posinf=white, neginf=black).clip(black, white)
    eight_bit: np.ndarray = (255 * ((numbers - black) / (white - black))).round().astype(np.uint8)
    return eight_bit


def record_brightness(network: nn.Module, brightness: Brightness | None) -> None:
    """Record in a network's config how its training images were scaled, or that they had 8 bits."""
    write_note(network, NOTE, brightness)


def recorded_brightness(network: nn.Module) -> Brightness | None:
    """How images are scaled according to a network's config; None if it does not say."""
    noted = read_note(network, NOTE)
    return Brightness(*noted) if noted else None


def _bits(high: float) -> int:
    """The smallest usual bit depth that holds a value, or as many bits as it takes."""
    return next((bits for bits in BIT_DEPTHS if high <= 1.1 * 2**bits), math.ceil(math.log2(high + 1)))
