"""Gaussian-Poincare normalized activations (Lu et al. 2020), the baselines of normalized ones."""

from torch import Tensor, nn
from torch.nn import functional as F

__all__ = ["LeakyReLUGPN"]


class LeakyReLUGPN(nn.Module):
    """``b * leaky_relu(x)`` with E[f(z)^2] = E[f'(z)^2] = 1 for z standard normal (Lu et al. 2020, "Bidirectional
    self-normalizing neural networks"); equations 25 and 27 of the normalized activations' paper.

    For slope s both expectations of leaky ReLU are (1 + s^2) / 2, half of the inputs being on either side, so one
    factor ``b = sqrt(2 / (1 + s^2))`` normalizes both: 1.4142 for ReLU (s = 0), 1.4141 for s = 0.01.

    Args:
        negative_slope: s.
        inplace: Accepted so that it drops into any `act_layer`, and ignored.

    Shape: any.
    """

    def __init__(self, negative_slope: float = 0.01, inplace: bool = False) -> None:
        super().__init__()
        self.negative_slope = negative_slope

    def forward(self, x: Tensor) -> Tensor:
        return F.leaky_relu(x, self.negative_slope) * (2 / (1 + self.negative_slope**2)) ** 0.5

    def extra_repr(self) -> str:
        return f"negative_slope={self.negative_slope:g}"
