"""What results, and the manifest of trained weights, hold: records as JSON files have them."""

from typing import Annotated, Literal

from typing_extensions import NotRequired, TypedDict

from .._utils.files import Surroundings
from .._utils.options import Bounds
from .._utils.records import Open, Pattern

__all__ = [
    "AdaptationRecord",
    "ComparedModel",
    "ComparedModels",
    "Comparison",
    "Corrupted",
    "DataRecord",
    "DataSet",
    "Entry",
    "Environment",
    "Hub",
    "Identity",
    "LoggedEpoch",
    "Noise",
    "RecipeRecord",
    "Result",
    "SeedScores",
    "SeededRecipe",
    "Stage",
]

Count = Annotated[int, Bounds(1)]
Amount = Annotated[int, Bounds(0)]
Sha256 = Annotated[str, Pattern("[0-9a-f]{64}")]
Scores = dict[str, float]  # a task's figures: loss, and percent of top1, iou, dice; of a test also the images


class RecipeRecord(TypedDict):
    """What a recipe's other fields are, `training.recipe` says; those of older versions differ."""

    name: str
    source: str
    epochs: Annotated[int, Bounds(0)] | None
    steps: NotRequired[Count | None]
    batch_size: Count
    optimizer: str
    lr: float


class SeededRecipe(RecipeRecord):
    """Of one run."""

    seed: int


class DataRecord(TypedDict):
    """What was trained, chosen and tested on; `name` is a key of datasets.json."""

    name: str
    train_images: Count
    validation_images: Amount
    test_images: Amount
    train_sha256: Sha256
    test_sha256: Sha256 | None
    validation_sha256: NotRequired[Sha256]


class DataSet(TypedDict):
    """What is known of a data set: datasets.json. `hub_id` is None where it is not on the Hub."""

    hub_id: str | None
    test_split: str
    license: str
    homepage: str
    description: str
    citation: str


class NetworksBySeverity(TypedDict):
    """A figure of both networks of an adaptation at each severity."""

    original: list[float]
    adapted: list[float]


class Noise(TypedDict):
    """What noise does to a network before and after adaptation, in percent; of corruptions at each severity."""

    images: Count
    split: str
    without: "Networks"
    corruptions: dict[str, NetworksBySeverity]


class Networks(TypedDict):
    """A figure of both networks of an adaptation."""

    original: float
    adapted: float


class Stage(TypedDict):
    """Held-out figures of a stage of an adaptation."""

    stage: str


class AdaptationRecord(TypedDict):
    """How the network that a run started from became this one, and what noise does to both."""

    to: str
    distill: bool
    unlabelled: bool
    statistics_batches: Amount
    stages: NotRequired[list[Annotated[Stage, Open()]]]
    test_before: NotRequired[Scores | None]
    noise: NotRequired[Noise]


class Origin(TypedDict):
    """What a network is and what was done to it."""

    model: str
    activations: dict[str, str]
    started_from: str | None
    recipe: Annotated[SeededRecipe, Open()]
    processes: Count
    data: DataRecord
    adaptation: NotRequired[AdaptationRecord]


class Identity(Origin):
    """What makes a run this one and no other: run.json; `monitor` is the figure that chose its best epoch."""

    monitor: str


class Outcome(TypedDict):
    """What a run came to before it was tested."""

    best_epoch: Amount
    validation: Scores | None
    dead_units: NotRequired[dict[str, float] | None]


class Result(Identity, Outcome):
    """What a run came to: result.json."""

    test: Scores | None


class Environment(Surroundings):
    """Where and when a run was made, and how fast: environment.json."""

    train_seconds: Annotated[float, Bounds(0)]
    images_per_second: NotRequired[Annotated[float, Bounds(0)]]
    statistics_seconds: NotRequired[Annotated[float, Bounds(0)]]
    threads: Count


class LoggedEpoch(TypedDict):
    """An epoch of a run: a line of log.jsonl."""

    epoch: Amount
    lr: float
    train: Scores
    val: Scores
    dead: NotRequired[dict[str, float] | None]


class SeedScores(TypedDict):
    """The figures of a training from one seed."""

    seed: int
    best_epoch: NotRequired[Amount]
    validation: Scores | None
    test: Scores


class Comparison(TypedDict):
    """A paired test over seeds against another network: percent points, p-values."""

    report: NotRequired[str]
    measure: str
    against: str
    pairs: NotRequired[Count]
    difference: float
    interval: NotRequired[list[float]]
    test: NotRequired[str]
    p: NotRequired[Annotated[float, Bounds(0, 1)]]
    effect: NotRequired[float]
    hypothesis: NotRequired[bool]
    p_holm: Annotated[float, Bounds(0, 1)]


class Corrupted(TypedDict):
    """Top-1 accuracy under corruptions, in percent: clean, total, each category; means and deviations over seeds."""

    set: str
    report: str
    networks: Count
    mean: Scores
    std: Scores | None
    comparisons: list[Comparison]


class PretrainedCfg(TypedDict):
    """timm's configuration: input, normalisation, classes; `license` as an SPDX name."""

    input_size: tuple[Count, Count, Count]
    mean: list[float]
    std: list[float]
    interpolation: str
    crop_pct: float
    num_classes: Count
    label_names: NotRequired[list[str]]
    license: str


class SmpConfig(TypedDict):
    """What rebuilds a network of segmentation_models_pytorch."""

    _model_class: str
    encoder_name: str


class Picture(TypedDict):
    """Picture for the card, in the folder of the cards."""

    file: Annotated[str, Pattern(r"[a-z0-9_.-]+\.png")]
    sha256: Sha256


class Twin(TypedDict):
    """The same training with another activation, whose weights are not here."""

    model: str
    test: Scores


class Hub(TypedDict):
    """Where weights were published, and at which commit."""

    repo: Annotated[str, Pattern(r"[\w.-]+/[\w.-]+")]
    revision: Annotated[str, Pattern("[0-9a-f]{40}")]


class Entry(Origin, Outcome, Environment):
    """Trained weights that ship: the file, how it came about and what it scores.

    `results` is the folder of these runs' result.json, beside the manifest; `program` says how weights were trained
    that `layeract train` did not.
    """

    monitor: NotRequired[str]
    test: Scores
    file: Annotated[str, Pattern(r".+\.safetensors")]
    sha256: Sha256
    bytes: Count
    parameters: Count
    dtype: Literal["float16", "bfloat16", "float32"]
    pretrained_cfg: Annotated[PretrainedCfg, Open()]
    smp_config: NotRequired[Annotated[SmpConfig, Open()]]
    seeds: NotRequired[list[SeedScores]]
    picture: NotRequired[Picture]
    results: NotRequired[str]
    corrupted: NotRequired[Corrupted]
    program: NotRequired[str]
    twin: NotRequired[Twin]
    hub: NotRequired[Hub]


class ComparedRun(SeedScores, Environment):
    """One run of a comparison."""


class ComparedModel(TypedDict):
    """The runs of a network that started from the same weights."""

    model: str
    activations: dict[str, str]
    started_from: str | None
    runs: list[ComparedRun]


class ComparedModels(TypedDict):
    """Runs that differ in model, start and seed alone: what `layeract compare` writes."""

    recipe: Annotated[RecipeRecord, Open()]
    data: DataRecord
    processes: Count
    models: list[ComparedModel]
