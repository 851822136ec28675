"""Every Triton program, by name."""

from .passes import gradient, stats, sums, value
from .whole import backward_one, backward_split, forward_one, forward_split

__all__ = [
    "backward_one",
    "backward_split",
    "forward_one",
    "forward_split",
    "gradient",
    "stats",
    "sums",
    "value",
]
