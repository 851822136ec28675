"""What results of robustness hold: accuracies of networks on clean and on other images, in percent; tests of them."""

from typing import Literal

from typing_extensions import NotRequired, TypedDict

from .._utils.files import Surroundings
from ..checkpoints.records import Count, Scores, Sha256

__all__ = [
    "Kind",
    "MeasuredModel",
    "MeasuredRun",
    "ReportedTest",
    "Robustness",
    "ShiftRun",
    "Shifts",
    "Significance",
]

Kind = Literal["fgsm", "pgd", "rotation", "translation"]
"""A kind of attack or shift."""


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


class TestImages(TypedDict):
    """What was measured on."""

    name: str
    images: Count
    sha256: Sha256


class CorruptedImages(TestImages):
    """And how its images were corrupted."""

    corruptions: str
    strengths: str | None


class Robustness(Surroundings):
    """A whole report; `sets` are the hashes of the corrupted sets by severity."""

    data: CorruptedImages
    sets: dict[str, list[str]]
    models: list[MeasuredModel]
    baseline: str | None
    precision: str
    corruption_errors: NotRequired[dict[str, Scores] | None]


class ShiftRun(TypedDict):
    """One network: accuracy on clean images, and at each strength of each kind that was measured."""

    model: str
    source: str
    seed: int | None
    clean: float
    fgsm: NotRequired[list[float]]
    pgd: NotRequired[list[float]]
    rotation: NotRequired[list[float]]
    translation: NotRequired[list[float]]


class Shifts(Surroundings):
    """Accuracies under attacks and shifts: shifts.json."""

    data: TestImages
    strengths: dict[Kind, list[int]]
    pgd_steps: Count
    runs: list[ShiftRun]


class ReportedTest(TypedDict):
    """A paired test of a measure of one model against another's, in a report; `p_holm` is corrected for their number.

    Of a hypothesis, which was named before the runs, it is `p` itself. The others as for `significance.PairedTest`.
    """

    report: str
    measure: str
    against: str
    hypothesis: bool
    pairs: Count
    difference: float
    interval: tuple[float, float]
    test: str
    p: float
    effect: float
    p_holm: float


class Significance(TypedDict):
    """Tests of one model against all others: significance.json."""

    model: str
    level: float
    comparisons: list[ReportedTest]
