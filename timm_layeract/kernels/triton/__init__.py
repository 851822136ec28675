"""The GPU kernels, in Triton: the same functions as `cpu`, for the same tensors on a GPU, in float16 too.

With TRITON_INTERPRET=1 they run on CPU tensors too, slowly, to be tested. Triton is imported when the first kernel
runs, as importing it takes longer than importing this package. Beside its launches (LayerAct one each way, two with
affine parameters or BatchNorm) a call makes one torch operation each way, which zeroes counters. Sums are taken in one
order, so that results repeat.
"""

import importlib.util
import os

import torch
from torch import Tensor

from ...compat.torch import accelerator
from .layer_act import layer_act_backward, layer_act_forward
from .norm_act import (
    norm_act_backward,
    norm_act_forward,
    norm_act_gradient,
    norm_act_stats,
    norm_act_sums,
    norm_act_value,
)

__all__ = [
    "DTYPES",
    "available",
    "layer_act_backward",
    "layer_act_forward",
    "norm_act_backward",
    "norm_act_forward",
    "norm_act_gradient",
    "norm_act_stats",
    "norm_act_sums",
    "norm_act_value",
]

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
DEVICES = ("cuda", "xpu")
LARGEST = 2**31 - 2**20  # elements of a sample: tiles reach over its end
_installed = importlib.util.find_spec("triton") is not None


def available(x: Tensor | None = None) -> bool:
    """Whether triton is installed and has a device, or an interpreter, to run on; with `x`, on its device.

    Programs count the elements of a sample in 32 bits, so that there is no kernel for larger ones.
    """
    interpreted = os.environ.get("TRITON_INTERPRET") == "1"
    if not _installed or x is None:
        return _installed and (interpreted or accelerator.is_available())
    on_device = x.device.type in DEVICES or (interpreted and x.device.type == "cpu")
    return on_device and x.numel() < LARGEST * x.shape[0]
