"""What is kept of each epoch: its figures, and how long it took."""

from dataclasses import asdict, dataclass
from typing import cast

from torch import Tensor
from typing_extensions import TypedDict

from ..checkpoints.records import LoggedEpoch

__all__ = ["EpochRecord", "EpochTime", "RunState"]


@dataclass
class EpochRecord:
    """What is logged of an epoch.

    Attributes:
        epoch: Its number, from 0.
        lr: Learning rate after it.
        train: Figures on training samples, augmented, as they came.
        val: Figures on held-out samples.
        dead: Percent of channels that never respond and of parameters without gradient, on held-out samples augmented
            as in training; None in records of versions before it was measured.
    """

    epoch: int
    lr: float
    train: dict[str, float]
    val: dict[str, float]
    dead: dict[str, float] | None = None

    def to_dict(self) -> LoggedEpoch:
        """As log.jsonl holds it."""
        return cast(LoggedEpoch, asdict(self))


@dataclass
class EpochTime:
    """Duration of an epoch, including validation, and the speed of its training."""

    seconds: float
    images_per_second: float


class RunState(TypedDict):
    """What a checkpoint keeps of a run beside the networks and the optimizer.

    Optimizer steps done, seconds that the epoch begun has taken, and what it measured, a row for each process.
    """

    history: list[LoggedEpoch]
    times: list[dict[str, float]]
    seconds: float
    step: int
    sums: Tensor | None
