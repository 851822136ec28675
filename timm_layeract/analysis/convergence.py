"""How fast LeNet-5 converges in one activation or another: table 1 and figures 3 and 4 of the second paper.

Trains every activation with every seed, and keeps of each run its curves: held-out accuracy after each epoch, and score
and mean weights at each epoch's first step.
"""

import json
import statistics
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import timm
from accelerate.utils import set_seed
from typing_extensions import TypedDict

from .._utils.files import markdown_table, write_json
from .._utils.names import dataset_name
from .._utils.records import Open, read_record
from .._utils.writing import write_whole
from ..checkpoints.records import SeededRecipe
from ..data.sources import load_splits
from ..data.splits import Split
from ..errors import UserError, did_you_mean
from ..training.options import Execution, silent
from ..training.recipe import Recipe
from ..training.run import train_on
from .variance import VarianceRecorder

__all__ = ["TABLE_1", "ConvergenceSettings", "compare_convergence", "convergence_table"]

TABLE_1 = ("tanh", "lrelu", "elu", "selu", "relu", "relugpn", "nrelu", "silu", "nswish")
# Plain SGD at one learning rate for all, as in section 3.1, which gives neither it nor the batch size: these are ours.
RECIPE = Recipe(
    name="convergence",
    source="Normalized activation function, section 3.1",
    epochs=50,
    batch_size=64,
    lr=0.01,
    momentum=0.0,
    weight_decay=0.0,
    schedule="multistep",
    milestones=(),
    padding=0,
    flip=False,
)


class Curves(TypedDict):
    """A run, by epoch: held-out accuracy in percent, score, sum of the absolute mean weights."""

    recipe: Annotated[SeededRecipe, Open()]
    train_sha256: str
    top1: list[float]
    score: list[float]
    mean_weights: list[float]


class Row(TypedDict):
    """The best accuracies of an activation's runs; `under`: how many had not reached the threshold, by epoch."""

    activation: str
    runs: int
    mean: float
    median: float
    under: dict[str, int]


class Convergence(TypedDict):
    """What convergence.json holds."""

    data: str
    recipe: SeededRecipe
    threshold: float
    rows: list[Row]


@dataclass(frozen=True)
class ConvergenceSettings:
    """What is compared.

    Attributes:
        activations: Suffixes of LeNet-5's names; ``relu`` is the network without one.
        seeds: One run of each activation for each.
        recipe: How the networks are trained.
        threshold: Held-out accuracy, in percent, that a run is to reach.
        checkpoints: Epochs at which the runs that have not reached it are counted.
    """

    activations: tuple[str, ...] = TABLE_1
    seeds: tuple[int, ...] = tuple(range(25))
    recipe: Recipe = RECIPE
    threshold: float = 98.0
    checkpoints: tuple[int, ...] = (5, 10, 15, 30, 50)

    def __post_init__(self) -> None:
        """Refuse what cannot be run."""
        for name in self.activations:
            if not timm.is_model(network_name(name)):
                known = [each.removeprefix("lenet5_") for each in timm.list_models("lenet5_*")] + ["relu"]
                raise UserError(f"LeNet-5 does not come with {name!r}; {did_you_mean(name, known)}")
        if not self.activations or not self.seeds:
            raise UserError("Give at least one activation and one run.")
        late = [epoch for epoch in self.checkpoints if not 1 <= epoch <= (self.recipe.epochs or 0)]
        if late:
            raise UserError(f"Epoch {late[0]} is past the end: the runs have {self.recipe.epochs} epochs.")


def network_name(activation: str) -> str:
    """The registered LeNet-5 with that activation."""
    return "lenet5" if activation == "relu" else f"lenet5_{activation}"


def compare_convergence(
    data: str | None,
    output: Path,
    settings: ConvergenceSettings,
    progress: bool = True,
    report: Callable[[str], None] = print,
) -> list[Row]:
    """Train all runs, and write table and figures: convergence.json, convergence.md, convergence.png.

    Every finished run is kept in ``output/runs`` and not repeated when the command is called again.

    Args:
        data: Parquet folder, image folder or Hub data set id, such as ``ylecun/mnist``; None for `data.digits`.
        output: Folder, made if need be.
        settings: What to compare.
        progress: Show progress bars.
        report: Called with lines for a person to read.

    Returns:
        The table's rows, one for each activation.

    Raises:
        UserError: Unreadable data, or runs in `output` that were made with other settings or data.
    """
    train, called = _open(data, progress)
    runs: dict[str, list[Curves]] = {name: [] for name in settings.activations}
    for seed in settings.seeds:
        for name in settings.activations:
            runs[name].append(_run(name, settings.recipe.replace(seed=seed), train, output / "runs", progress))
            best = max(runs[name][-1]["top1"])
            report(f"{name:8} seed {seed:3d}: best held-out top-1 {best:.2f} %")
    rows = [_row(name, runs[name], settings) for name in settings.activations]
    result: Convergence = {
        "data": called,
        "recipe": settings.recipe.to_dict(),
        "threshold": settings.threshold,
        "rows": rows,
    }
    table = convergence_table(result)
    write_json(output / "convergence.json", result)
    write_whole(output / "convergence.md", table + "\n")
    _plot(runs, output / "convergence.png")
    report(table)
    return rows


def _open(data: str | None, progress: bool) -> tuple[Split, str]:
    """The images to train on, and what results call them."""
    if data is None:
        from ..data.digits import DIGITS, digit_splits  # needs what other data does not

        return digit_splits()["train"], DIGITS
    size = timm.get_pretrained_cfg("lenet5").input_size[1:]  # type: ignore[union-attr]
    return load_splits(data, size, progress=progress)["train"], dataset_name(data)


def _run(activation: str, recipe: Recipe, train: Split, folder: Path, progress: bool) -> Curves:
    """The curves of one run: read if it was made before, else trained."""
    path = folder / f"{network_name(activation)}-{recipe.seed}.json"
    own, sha256 = recipe.to_dict(), train.sha256()
    if path.exists():
        kept = read_record(Curves, path)
        if (kept["recipe"], kept["train_sha256"]) != (own, sha256):
            raise UserError(f"{path} was made with other settings or data; give another --output.")
        return kept
    set_seed(recipe.seed)
    model = timm.create_model(network_name(activation), num_classes=len(train.classes))
    steps = int(len(train) * (1 - recipe.validation_fraction)) // recipe.batch_size
    with tempfile.TemporaryDirectory() as scratch, VarianceRecorder(model, every=max(1, steps)) as recorder:
        train_on(
            model, recipe, train, None, scratch, data_name="-", execution=Execution(progress=progress, report=silent)
        )
        log = [json.loads(line) for line in (Path(scratch) / "log.jsonl").read_text().splitlines()]
    curves: Curves = {
        "recipe": own,
        "train_sha256": sha256,
        "top1": [record["val"]["top1"] for record in log],
        "score": recorder.scores()[: len(log)],
        "mean_weights": recorder.weights[: len(log)],
    }
    write_whole(path, json.dumps(curves) + "\n")
    return curves


def _row(activation: str, runs: Sequence[Curves], settings: ConvergenceSettings) -> Row:
    """One row of table 1."""
    best = [max(run["top1"]) for run in runs]
    under = {
        str(epoch): sum(max(run["top1"][:epoch]) < settings.threshold for run in runs) for epoch in settings.checkpoints
    }
    return {
        "activation": activation,
        "runs": len(runs),
        "mean": statistics.mean(best),
        "median": statistics.median(best),
        "under": under,
    }


def convergence_table(result: Convergence) -> str:
    """Table 1 in Markdown, and how it was made, from what convergence.json holds."""
    rows, recipe, threshold = result["rows"], result["recipe"], f"{result['threshold']:g} %"
    head = ["activation", "runs", "mean", "median", *(f"under {threshold} at {epoch}" for epoch in rows[0]["under"])]
    lines = [
        [row["activation"], row["runs"], f"{row['mean']:.2f}", f"{row['median']:.2f}", *row["under"].values()]
        for row in rows
    ]
    return (
        f"{markdown_table(head, [list(map(str, line)) for line in lines])}\n\n"
        f"LeNet-5 on {result['data']}: held-out top-1 in %, the best of {recipe['epochs']} epochs by SGD with learning "
        f"rate {recipe['lr']:g} and batches of {recipe['batch_size']}; then how many runs had not reached {threshold} "
        f"by an epoch."
    )


def _plot(runs: Mapping[str, Sequence[Curves]], path: Path) -> None:
    """Medians over the runs of accuracy, score (figure 3) and mean weights (figure 4) by epoch."""
    from .._utils.plotting import new_figure, save_figure

    figure, panels = new_figure(1, 3, 5, 4)
    names: dict[Literal["top1", "score", "mean_weights"], str] = {
        "top1": "held-out top-1 (%)",
        "score": "score (equation 22)",
        "mean_weights": "sum of |mean weight|",
    }
    for axes, (key, label) in zip(panels[0], names.items(), strict=True):
        for name, each in runs.items():
            median = np.median([run[key] for run in each], axis=0)
            axes.plot(np.arange(1, len(median) + 1), median, label=name)
        axes.set(xlabel="epoch", ylabel=label)
    panels[0][0].legend(fontsize="small", loc="lower right")  # where accuracies leave room
    save_figure(figure, path)
