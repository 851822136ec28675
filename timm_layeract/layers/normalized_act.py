"""Normalized activations as a module, with running statistics."""

from collections.abc import Callable

import torch
from torch import Tensor, fx, nn

from ..definition.normalized import (
    ActStatistics,
    act_moments,
    filter_statistics,
    gain,
    mean_square_slope,
    merge_moments,
    normalize_output,
    statistics_of,
)
from ..errors import UserError
from .batch_statistics import BatchStatistics, computed_again

__all__ = ["NormalizedAct", "is_elementwise"]


class NormalizedAct(BatchStatistics):
    """``(lambda + 0.3 tanh(alpha)) (f(x) - mu)`` for an elementwise activation f, see `normalized`.

    In training, rho, rho' and mu follow the batches, and the values after the current batch are used; in evaluation
    they stay. Batches are those of one process, as in BatchNorm; `synchronize_statistics` takes them over several. A
    first batch whose inputs are constant leaves lambda at 1. Every place in a network needs a module of its own.

    Args:
        base: f, as a module, or a class or factory that makes one (``nn.ReLU``).
        centered: Take mu away; False as in the paper's LeNet experiment.
        momentum: Weight m of a new batch in the running values.
        lower: L: a batch whose rho or rho' is below this multiple of the running one is an outlier and leaves it alone.
        upper: U: the same above. The paper gives no values for m, L and U.
        inplace: Accepted so that it drops into any `act_layer`, and ignored.

    Shape: any, with an optional boolean mask that broadcasts to it (True for what counts), as for padded tokens.

    Attributes:
        alpha: The learnt scalar, ``(1,)``, as sharding takes no parameter without dimensions; starts at 0.
        running_rho: rho.
        running_slope: rho', the mean square slope.
        running_mean: mu.
        num_batches_tracked: Batches that the running values have seen.

    Raises:
        ValueError: `base` is not elementwise (a LayerAct, softmax, a random one), or momentum and bounds make no sense.
    """

    running_rho: Tensor
    running_slope: Tensor
    running_mean: Tensor
    num_batches_tracked: Tensor

    def __init__(
        self,
        base: nn.Module | Callable[[], nn.Module],
        centered: bool = True,
        momentum: float = 0.1,
        lower: float = 0.2,
        upper: float = 5.0,
        inplace: bool = False,
    ) -> None:
        super().__init__()
        if not (0 < momentum <= 1 and 0 <= lower < 1 < upper):
            raise ValueError(
                f"momentum must be in (0, 1] and lower < 1 < upper, got momentum={momentum}, {lower=}, {upper=}."
            )
        self.base = base if isinstance(base, nn.Module) else base()
        if hasattr(self.base, "inplace"):
            self.base.inplace = False  # type: ignore[assignment]  # the statistics need the input
        if not is_elementwise(self.base):
            raise ValueError(f"{type(self.base).__name__} is not elementwise, so it has no rho and rho' to normalize.")
        self.centered = centered
        self.momentum = momentum
        self.lower = lower
        self.upper = upper
        self.alpha = nn.Parameter(torch.zeros(1))
        self.register_buffer("running_rho", torch.ones(()))
        self.register_buffer("running_slope", torch.ones(()))
        self.register_buffer("running_mean", torch.zeros(()))
        self.register_buffer("num_batches_tracked", torch.zeros((), dtype=torch.long))

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        y = self.base(x)
        statistics = self._update(x, y, mask) if self.training else self._running()
        return normalize_output(y, statistics, self.alpha[0], self.centered)

    def _running(self) -> ActStatistics:
        return ActStatistics(self.running_rho, self.running_slope, self.running_mean)

    @torch.jit.unused
    def _update(self, x: Tensor, y: Tensor, mask: Tensor | None) -> ActStatistics:
        """Take the batch into the running statistics; return those after it."""
        if isinstance(x, fx.Proxy):
            raise UserError(
                "torch.fx can't record how a NormalizedAct follows its batches in training: trace model.eval(), or "
                "name it as a leaf (leaf_modules=[timm_layeract.NormalizedAct])."
            )
        if computed_again():
            return self._running()
        new = statistics_of(merge_moments(self._gather(act_moments(x, y, self.base, mask))))
        with torch.no_grad():
            first = self.num_batches_tracked == 0
            updated = filter_statistics(self._running(), new, first, self.momentum, self.lower, self.upper)
            self.running_rho.copy_(updated.rho)
            self.running_slope.copy_(updated.slope)
            self.running_mean.copy_(updated.mean)
            ratios = torch.stack([new.rho, new.slope])
            self.num_batches_tracked.add_((ratios.isfinite() & (ratios > 0)).all())
        return updated

    def extra_repr(self) -> str:
        return f"centered={self.centered}, momentum={self.momentum:g}, bounds=({self.lower:g}, {self.upper:g})"


def is_elementwise(base: nn.Module) -> bool:
    """Whether a module's value at one element depends on that element alone; True if its parameters are on meta."""
    if any(parameter.is_meta for parameter in base.parameters()):
        return True
    device = next((parameter.device for parameter in base.parameters()), "cpu")
    x = torch.linspace(-2.0, 2.0, 12, device=device).view(3, 4)
    with torch.no_grad():
        try:
            return torch.equal(base(x.clone())[1:, 1:2], base(x[1:, 1:2].clone()))
        except (RuntimeError, ValueError):  # another number of channels, or none
            return False


@mean_square_slope.register
def _(base: NormalizedAct, x: Tensor, y: Tensor) -> Tensor:
    # As the function that it is now: asking it for values would count a batch.
    return gain(base._running(), base.alpha[0]).square() * mean_square_slope(base.base, x, base.base(x))
