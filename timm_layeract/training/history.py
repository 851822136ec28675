"""What is kept of each epoch: its figures, and how long it took."""

from dataclasses import dataclass

__all__ = ["EpochRecord", "EpochTime"]


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


@dataclass
class EpochTime:
    """How long an epoch took, validation included, and how fast its training was."""

    seconds: float
    images_per_second: float
