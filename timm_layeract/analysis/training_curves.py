"""How the loss falls over the epochs (v1, Figures 3 and 4) and how it is spread over samples (v1, Table 5)."""

import json
from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from typing_extensions import TypedDict

from .._utils.files import write_json
from .._utils.names import dataset_name
from .._utils.plotting import new_figure, save_figure
from .._utils.progress import tracked
from ..errors import UserError
from ..robustness.accuracy import BATCH
from ..robustness.robustness import load_test_set
from .distributions import Distribution, describe, draw_boxes

__all__ = ["curves", "losses"]


class Losses(TypedDict):
    """Least and mean deviation of the loss over the runs of a model, and the loss of each run, by source."""

    best: float
    mean: float
    runs: dict[str, Distribution]


def curves(runs: Sequence[str | Path], output: str | Path) -> dict[str, dict[str, list[float]]]:
    """Draw the log.jsonl of training runs; write curves.json and curves.png.

    Args:
        runs: Folders of runs of `layeract train`.
        output: Folder to write to.

    Returns:
        What curves.json holds: run -> ``epoch`` and the figures of the log, such as ``train_loss`` and
        ``val_top1``, a list each.

    Raises:
        UserError: A folder without a log.
    """
    found: dict[str, dict[str, list[float]]] = {}
    for run in runs:
        log = Path(run) / "log.jsonl"
        if not log.is_file() or not log.read_text().strip():
            raise UserError(f"{run} holds no log.jsonl with epochs, which `layeract train` writes.")
        records = [json.loads(line) for line in log.read_text().splitlines()]
        found[Path(run).name] = {
            "epoch": [record["epoch"] for record in records],
            **{
                f"{part}_{name}": [record[part][name] for record in records]
                for part in ("train", "val")
                for name in records[0][part]
            },
        }
    if not found:
        raise UserError("Give at least one folder of a training run.")
    write_json(Path(output) / "curves.json", found)
    drawn = [key for key in next(iter(found.values())) if key != "epoch"]
    figure, axes = new_figure(1, len(drawn), 4, 3)
    for panel, key in zip(axes[0], drawn, strict=True):
        for name, curves in found.items():
            if key in curves:
                panel.plot([epoch + 1 for epoch in curves["epoch"]], curves[key], linewidth=1, label=name)
        panel.set_title(key.replace("val", "held-out").replace("_", " "), fontsize=9)
        panel.set_xlabel("epoch")
    axes[0, 0].set_yscale("log")
    axes[0, 0].legend(fontsize=6)
    save_figure(figure, Path(output) / "curves.png")
    return found


@torch.no_grad()
def losses(
    models: Sequence[str],
    data: str,
    output: str | Path,
    *,
    seeds: Sequence[int] = (),
    limit: int | None = None,
    progress: bool = True,
) -> dict[str, Losses]:
    """Cross-entropy of every test sample; write losses.json and losses.png.

    Args:
        models: Sources as `load_networks` takes them.
        data: Test images, as `load_test_split` takes them.
        output: Folder to write to.
        seeds: What ``{seed}`` in a source stands for.
        limit: Measure the first images only.
        progress: Show progress bars.

    Returns:
        What losses.json holds: model -> ``best`` (least) and ``mean`` deviation over its runs, and ``runs``, source ->
        mean, deviation and quantiles of the loss over samples.

    Raises:
        UserError: Anything that is not there or does not fit.
    """
    networks, clean = load_test_set(models, seeds, data, limit, progress)
    runs: dict[str, dict[str, Distribution]] = {}
    for network in tracked(networks, "networks", progress):
        device = next(network.module.parameters()).device
        each = []
        for images, labels in zip(clean.images.split(BATCH), clean.labels.split(BATCH), strict=True):
            logits = network.module(images.to(device).float() / 255)
            each.append(F.cross_entropy(logits, labels.to(device), reduction="none"))
        runs.setdefault(network.label, {})[network.source] = describe(torch.cat(each))
    found: dict[str, Losses] = {}
    for label, of in runs.items():
        deviations = [run["std"] for run in of.values()]
        found[label] = {"best": min(deviations), "mean": sum(deviations) / len(deviations), "runs": of}
    write_json(Path(output) / "losses.json", {"data": dataset_name(data), "images": len(clean), "models": found})
    figure, axes = new_figure(1, 1, 6, 0.3 * len(networks) + 1)
    boxes = {source: run for model in found.values() for source, run in model["runs"].items()}
    draw_boxes(axes[0, 0], boxes, f"loss of each of {len(clean):,} samples")
    save_figure(figure, Path(output) / "losses.png")
    return found
