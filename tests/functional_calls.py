"""Networks whose forward calls an activation as a function, for the tests of swapping."""

import torch
import torch.nn.functional as F
from torch import nn

IMAGE = torch.linspace(-2, 2, 2 * 3 * 32 * 32).sin().reshape(2, 3, 32, 32)


class Calls(nn.Module):
    """One functional call, given as a function of the tensor."""

    def __init__(self, call=None):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 1)
        self.call = call


def network(forward) -> nn.Module:
    """A module with a 1x1 convolution `conv` and the given forward."""
    torch.manual_seed(0)
    return type("Network", (Calls,), {"forward": forward})()


SPELLINGS = {
    "F.relu": lambda self, x: F.relu(self.conv(x)),
    "F.relu inplace": lambda self, x: F.relu(self.conv(x), inplace=True),
    "F.relu_": lambda self, x: F.relu_(self.conv(x)),
    "torch.relu": lambda self, x: torch.relu(self.conv(x)),
    "torch.relu_": lambda self, x: torch.relu_(self.conv(x)),
    "x.relu()": lambda self, x: self.conv(x).relu(),
    "x.relu_()": lambda self, x: self.conv(x).relu_(),
    "nn.functional.gelu": lambda self, x: nn.functional.gelu(self.conv(x), approximate="tanh"),
    "F.silu": lambda self, x: F.silu(self.conv(x)),
    "F.leaky_relu positional": lambda self, x: F.leaky_relu(self.conv(x), 0.2, True),
    "F.hardswish keyword": lambda self, x: F.hardswish(input=self.conv(x)),
    "F.mish": lambda self, x: F.mish(self.conv(x)),
}
