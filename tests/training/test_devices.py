"""Devices without float64, as Apple's GPUs: mocked by a tensor that refuses it until it is on the CPU."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from timm_layeract.analysis.distributions import describe
from timm_layeract.analysis.variance import mean_weights
from timm_layeract.training.tasks.classification import Classification
from timm_layeract.training.tasks.segmentation import Segmentation


class Apples(Tensor):
    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is Tensor.cpu:
            with torch._C.DisableTorchFunctionSubclass():
                return args[0].as_subclass(Tensor)
        if func is Tensor.double or any(each is torch.float64 for each in (*args, *kwargs.values())):
            raise TypeError("the device has no float64")
        return super().__torch_function__(func, types, args, kwargs)


def there(values: Tensor) -> Tensor:
    return values.as_subclass(Apples)


def test_nothing_asks_for_float64_on_the_device() -> None:
    with pytest.raises(TypeError):
        there(torch.ones(2)).double()
    task = Segmentation.__new__(Segmentation)
    measured = task.measure(there(torch.randn(2, 1, 8, 8)), there(torch.ones(2, 8, 8, dtype=torch.uint8)))
    assert measured.dtype == torch.float64
    assert measured[:, 1:].sum() == 2 * 64  # every pixel is foreground: found, or missed
    Classification.measure(
        Classification.__new__(Classification), there(torch.randn(2, 5)), there(torch.tensor([0, 1]))
    )
    describe(there(torch.randn(10)))
    layer = nn.Linear(3, 3)
    layer.weight = nn.Parameter(there(torch.full((3, 3), 0.5)))
    assert mean_weights(layer) == pytest.approx(0.5)
