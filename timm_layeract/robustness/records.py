"""What robustness.json holds: accuracies of networks on clean and on corrupted images, in percent."""

from typing_extensions import NotRequired, TypedDict

from .._utils.files import Surroundings
from ..checkpoints.records import Count, Scores, Sha256

__all__ = ["Measured", "MeasuredModel", "MeasuredRun", "Robustness"]


class Means(TypedDict):
    """Means over corruptions: the fifteen common ones, in total (the 19, as far as measured), each category."""

    common: NotRequired[float | None]
    total: float | None
    categories: Scores


class MeasuredRun(Means):
    """One network: `accuracy` by corruption and severity, and its means; None where corruptions are missing."""

    source: str
    seed: int | None
    sha256: str
    parameters: Count
    clean: float
    accuracy: dict[str, list[float]]
    calibration_error: NotRequired[dict[str, float | None]]


class OverSeeds(TypedDict):
    """Mean and sample deviation of figures over the networks of one label."""

    mean: Scores
    std: Scores | None
    calibration_error: NotRequired[dict[str, float]]


class MeasuredModel(OverSeeds):
    """The networks of one label."""

    name: str
    runs: list[MeasuredRun]


class Measured(TypedDict):
    """What was measured on."""

    name: str
    images: Count
    sha256: Sha256
    corruptions: str
    strengths: str | None


class Robustness(Surroundings):
    """A whole report; `sets` are the hashes of the corrupted sets by severity."""

    data: Measured
    sets: dict[str, list[str]]
    models: list[MeasuredModel]
    baseline: str | None
    precision: str
    corruption_errors: NotRequired[dict[str, Scores] | None]
