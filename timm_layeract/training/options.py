"""The options of a run, declared once for every command and function: what a run is, and how it is run."""

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any

from .._utils.names import dataset_name
from .._utils.options import Bounds, Option, check_options, options_of, shortened
from .._utils.plain_yaml import read_yaml
from ..errors import UserError
from .recipe import RATES, SEEDS, Recipe, list_recipes, load_recipe

__all__ = [
    "ADAPTATION",
    "FINE_TUNING",
    "FINE_TUNING_LARGE",
    "LARGE_SIDE",
    "TRAINING",
    "Adaptation",
    "Execution",
    "Report",
    "RunOptions",
    "silent",
]

Report = Callable[[str], None]

# Recipes by task; that of classification without one.
TRAINING = {"classification": "cifar10_resnet", "segmentation": "segmentation_fast", "text": "imdb_textrcnn"}
FINE_TUNING = {"classification": "finetune", "segmentation": "finetune_segmentation"}
FINE_TUNING_LARGE = {
    **FINE_TUNING,
    "classification": "finetune_photographs",
}  # of networks for images over LARGE_SIDE px
LARGE_SIDE = 64
ADAPTATION = {"classification": "adapt", "segmentation": "adapt_segmentation"}


def silent(_: str) -> None:
    """Report nothing, in a process that is not the main one."""


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """What a run is besides its network: its data, its recipe, and changes to the recipe."""

    data: Annotated[
        str,
        Option(
            "Folder of parquet files (train-*.parquet, test-*.parquet), folder of images (train/CLASS/*.png or "
            "CLASS/*.png), or id of a data set on the Hub (uoft-cs/cifar10, ORG/NAME:CONFIG where it has several). For "
            "segmentation, parquet files or a data set with an image and a mask column, or a folder of images/NAME.png "
            "and masks/NAME.png. For text, parquet files or a data set with the columns text and label, or a folder of "
            "train/CLASS/*.txt or CLASS/*.txt.",
            short="-d",
        ),
    ]
    image_column: Annotated[str | None, Option("Column of the images, if the data has several.", flag="--image")] = None
    label_column: Annotated[
        str | None, Option("Column of the labels (of masks, in segmentation), if the data has several.", flag="--label")
    ] = None
    masks: Annotated[
        str | None,
        Option(
            "What the values of masks mean, if that is ambiguous: binary, all but 0 is foreground (instances, for "
            "example), or classes, each value a class from 0 on and 255 void; a file classes.txt in the data's folder "
            "(or --set class_names=[...]) may name the classes."
        ),
    ] = None
    data_name: Annotated[str | None, Option("What results call the data; the last part of --data if left out.")] = None
    task: Annotated[
        str | None,
        Option("classification, segmentation of images with masks, or text; that of the recipe if left out."),
    ] = None
    recipe: Annotated[
        str | None, Option("Recipe of ours (`layeract recipes` lists them) or a YAML file.", short="-r")
    ] = None
    settings: Annotated[
        list[str] | None,
        Option("Another value for a key of the recipe, as key=value; may be repeated.", flag="--set"),
    ] = None
    epochs: Annotated[
        int | None, Option("Passes over the training data, instead of the recipe's.", bounds=Bounds(0, 10**6))
    ] = None
    lr: Annotated[float | None, Option("Peak learning rate, instead of the recipe's.", bounds=RATES)] = None
    adversarial: Annotated[
        str | None, Option("Train on adversarial images made by pgd or fgsm, up to 8/255 away in every value.")
    ] = None
    batch_size: Annotated[
        int | None, Option("Samples in one optimizer step over all processes.", bounds=Bounds(1, 10**6))
    ] = None
    alpha: Annotated[
        float | None,
        Option("Added to the variance in LayerAct, instead of the network's own.", bounds=Bounds(above=0, most=1e6)),
    ] = None
    num_classes: Annotated[
        int | None,
        Option("Outputs of the head; as many as the data has classes if left out.", bounds=Bounds(1, 10**6)),
    ] = None
    seed: Annotated[
        int | None,
        Option("Seed of initialisation, held-out images, order, augmentation.", bounds=SEEDS),
    ] = None

    def __post_init__(self) -> None:
        """Refuse values that no run can have."""
        check_options(self)

    @property
    def called(self) -> str:
        """What results call the data."""
        return self.data_name or dataset_name(self.data)

    def load_recipe(self, defaults: Mapping[str, str]) -> Recipe:
        """The recipe that is asked for, by name or by task, with the changes applied.

        Raises:
            UserError: No such recipe, task or key; a value that does not fit; a value given twice.
        """
        chosen = load_recipe(self.recipe or self._default(defaults), **self._changes())
        if self.task not in (None, chosen.task):
            fitting = [name for name in list_recipes() if load_recipe(name).task == self.task]
            raise UserError(
                f"Recipe {chosen.name} is for {chosen.task}; for {self.task}: {', '.join(fitting) or 'none'}."
            )
        return chosen

    def _default(self, defaults: Mapping[str, str]) -> str:
        task = self.task or "classification"
        if task not in TRAINING:
            raise UserError(f"There is no task {task!r}; known are {', '.join(TRAINING)}.")
        return defaults.get(task, defaults["classification"])

    def _changes(self) -> dict[str, object]:
        """Values that replace the recipe's: those of ``--set``, and of options with a name of their own."""
        keys = {field.name for field in dataclasses.fields(Recipe)}
        named = {field.name: getattr(self, field.name) for field, _, _ in options_of(RunOptions) if field.name in keys}
        del named["task"]  # says which recipe
        given = {key: value for key, value in named.items() if value is not None}
        changes = dict(_parse(setting) for setting in self.settings or ())
        twice = [key for key in given if key in changes]
        if twice:
            raise UserError(f"{twice[0]} is given twice, as --{twice[0].replace('_', '-')} and by --set.")
        return {**given, **changes}


@dataclass(frozen=True, kw_only=True)
class Adaptation:
    """What an adaptation does beside fine-tuning."""

    to: Annotated[str, Option("Activation to adapt to: lasilu, lahardsilu, silu, ...")] = "lasilu"
    distill: Annotated[
        bool, Option("Learn from the original network beside the labels, for one forward pass of it more.")
    ] = True
    unlabelled: Annotated[bool, Option("Read no labels: learn from the original network alone.")] = False
    statistics_batches: Annotated[
        int, Option("Batches that BatchNorm's statistics are re-estimated on.", bounds=Bounds(0, 10**6))
    ] = 240

    def __post_init__(self) -> None:
        """Refuse values that no adaptation can have."""
        check_options(self)
        if self.unlabelled and not self.distill:
            raise UserError(
                "Without labels there is nothing to learn from but the network's own outputs: leave distill on."
            )


@dataclass(frozen=True, kw_only=True)
class Execution:
    """How a run is run, which changes nothing of what it gives.

    Attributes:
        progress: Show progress bars.
        report: Called with lines for a person to read.
    """

    resume: Annotated[bool, Option("Continue the run in --output after its newest checkpoint.")] = False
    tracker: Annotated[
        str, Option("Also log to tensorboard, trackio, wandb or another tracker of accelerate's (installed apart).")
    ] = "none"
    checkpoint_steps: Annotated[
        int, Option("Optimizer steps between checkpoints; each epoch ends with one too.", bounds=Bounds(1))
    ] = 500
    workers: Annotated[
        int | None,
        Option(
            "Processes that read data; by default none for data in memory, else one a core.", bounds=Bounds(0, 1024)
        ),
    ] = None
    skip_unreadable: Annotated[
        bool,
        Option("Replace a sample on disk that cannot be read by the next one, and say so; also with --resume."),
    ] = False
    progress: bool = True
    report: Report = print

    def __post_init__(self) -> None:
        """Refuse values that no run can have."""
        check_options(self)

    def for_process(self, is_main: bool) -> "Execution":
        """The same for one of several processes, of which only the main one reports."""
        return self if is_main else dataclasses.replace(self, report=silent)


def _parse(setting: str) -> tuple[str, Any]:
    """``"milestones=[0.5]"`` as key and value, the value read as YAML."""
    key, separator, value = setting.partition("=")
    if not separator:
        raise UserError(f"--set takes key=value, got {shortened(setting)}.")
    return key.strip(), read_yaml(value, f"--set {key}")
