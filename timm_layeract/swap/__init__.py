"""Changing the activations of a finished model.

`swap` is what users call; `sites` finds the activations; `functional_calls` and `traced_methods` are for those that are
called as functions.
"""

from .report import SwapEntry, SwapReport
from .swap import swap_activations

__all__ = ["SwapEntry", "SwapReport", "swap_activations"]
