"""Accuracy under attacks, rotations and translations: `layeract shifts`."""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from statistics import mean
from typing import cast

import torch
import torchvision.transforms.v2.functional as transforms
from torch import Tensor

from .._utils.files import markdown_table, mean_and_deviation, write_json
from .._utils.names import dataset_name
from .._utils.plotting import new_figure, save_figure
from .._utils.progress import progress_bar
from .._utils.writing import check_folder, write_whole
from ..data.columns import Columns
from ..data.sources import ImageSplit
from ..errors import UserError, did_you_mean
from ..networks import Network
from .accuracy import BATCH
from .attacks import fgsm, pgd
from .measure import measured_in
from .records import Kind, ShiftRun, Shifts
from .robustness import load_test_set

__all__ = ["STRENGTHS", "measure_shifts", "rotated", "shifts", "translated"]

# Strengths: L-infinity distance in 1/255, degrees, percent of the side.
STRENGTHS: dict[Kind, tuple[int, ...]] = {
    "fgsm": (1, 2, 4, 8),
    "pgd": (1, 2, 4, 8),
    "rotation": (5, 10, 20, 30),
    "translation": (5, 10, 15, 20),
}
STRENGTH_UNITS: dict[Kind, str] = {"fgsm": "/255", "pgd": "/255", "rotation": "°", "translation": " %"}
BILINEAR = transforms.InterpolationMode.BILINEAR


def rotated(images: Tensor, degrees: float) -> list[Tensor]:
    """Rotated both ways round the centre, with black corners: ``(N, C, H, W)`` each."""
    return [transforms.rotate(images, angle, BILINEAR) for angle in (degrees, -degrees)]


def translated(images: Tensor, percent: float) -> list[Tensor]:
    """Moved left, right, up and down by a share of the side, rounded to pixels, with a black border."""
    height, width = images.shape[-2:]
    across, down = round(width * percent / 100), round(height * percent / 100)
    moves = ((-across, 0), (across, 0), (0, -down), (0, down))
    return [transforms.affine(images, 0.0, [*move], 1.0, [0.0, 0.0]) for move in moves]


def changed(kind: Kind, strength: float, network: Network, steps: int, images: Tensor, labels: Tensor) -> list[Tensor]:
    """Versions of a batch in [0, 1] made by an attack or shift; the accuracy is the mean over them."""
    if kind == "rotation":
        return rotated(images, strength)
    if kind == "translation":
        return translated(images, strength)
    if kind == "fgsm":
        return [fgsm(network.module, images, labels, strength / 255)]
    start = torch.rand(images.shape, generator=torch.Generator().manual_seed(0))
    return [pgd(network.module, images, labels, strength / 255, steps=steps, start=start)]


def measure_shifts(
    networks: Sequence[Network],
    clean: ImageSplit,
    kinds: Sequence[Kind] = tuple(STRENGTHS),
    *,
    steps: int = 10,
    progress: bool = True,
) -> list[ShiftRun]:
    """Accuracy in percent of every network, clean and at each strength of each kind.

    Args:
        networks: Those with one label are the seeds of one model.
        clean: Test images.
        kinds: Keys of `STRENGTHS`.
        steps: Steps of PGD, from a random start.
        progress: Show a progress bar.

    Returns:
        For each network ``model``, ``source``, ``seed``, ``clean``, and each kind's list of accuracies.
    """
    runs: list[ShiftRun] = []
    with progress_bar(progress) as bar:
        task = bar.add_task("shifts", total=len(networks) * (1 + sum(len(STRENGTHS[kind]) for kind in kinds)))
        for network in networks:
            bar.update(task, description=network.source)
            run: ShiftRun = {
                "model": network.label,
                "source": network.source,
                "seed": network.seed,
                "clean": _accuracy(network, clean, lambda images, labels: [images]),
            }
            bar.advance(task)
            for kind in kinds:
                run[kind] = []
                for strength in STRENGTHS[kind]:
                    change = partial(changed, kind, strength, network, steps)
                    run[kind].append(_accuracy(network, clean, change))
                    bar.advance(task)
            runs.append(run)
    return runs


def _accuracy(network: Network, split: ImageSplit, change: Callable[[Tensor, Tensor], list[Tensor]]) -> float:
    device = next(network.module.parameters()).device
    correct, versions = 0, 1
    for images, labels in zip(split.images.split(BATCH), split.labels.split(BATCH), strict=True):
        batch, wanted = images.to(device).float() / 255, labels.to(device)
        made = change(batch, wanted)
        versions = len(made)
        with torch.inference_mode():
            for each in made:
                correct += int((network.module(each).argmax(1) == wanted).sum())
    return 100 * correct / (versions * len(split))


def shifts(
    models: Sequence[str],
    data: str,
    output: str | Path,
    *,
    kinds: Sequence[str] = (),
    seeds: Sequence[int] = (),
    steps: int = 10,
    limit: int | None = None,
    columns: Columns | None = None,
    data_name: str | None = None,
    progress: bool = True,
    report: Callable[[str], None] = print,
) -> Shifts:
    """Measure models by name and write shifts.json, .md and .png; arguments as for `robustness` and `measure_shifts`.

    Raises:
        UserError: Anything that is not there or does not fit.
    """
    unknown = [kind for kind in kinds if kind not in STRENGTHS]
    if unknown:
        raise UserError(f"There is no shift {unknown[0]!r}; {did_you_mean(unknown[0], STRENGTHS)}")
    check_folder(Path(output))
    networks, clean = load_test_set(models, seeds, data, limit, progress, columns)
    chosen = [cast(Kind, kind) for kind in kinds or STRENGTHS]
    runs = measure_shifts(networks, clean, chosen, steps=steps, progress=progress)
    result: Shifts = {
        "data": {"name": data_name or dataset_name(data), "images": len(clean), "sha256": clean.sha256()},
        "strengths": {kind: list(STRENGTHS[kind]) for kind in chosen},
        "pgd_steps": steps,
        "runs": runs,
        **measured_in(networks[0]),
    }
    output = Path(output)
    write_json(output / "shifts.json", result)
    table = _table(result)
    write_whole(output / "shifts.md", f"# Attacks and shifts\n\n{table}\n\n![accuracy against strength](shifts.png)\n")
    _plot(result, output / "shifts.png")
    report(f"{table}\nWritten to {output}.")
    return result


def _columns(result: Shifts) -> dict[str, dict[Kind, list[list[float]]]]:
    """Model -> kind (``clean`` too) -> accuracies of each seed, clean first."""
    found: dict[str, dict[Kind, list[list[float]]]] = {}
    for run in result["runs"]:
        for kind in result["strengths"]:
            found.setdefault(run["model"], {}).setdefault(kind, []).append([run["clean"], *run[kind]])
    return found


def _table(result: Shifts) -> str:
    head = ["model", "seeds", "clean"]
    head += [f"{kind} {s}{STRENGTH_UNITS[kind]}" for kind, strengths in result["strengths"].items() for s in strengths]
    rows = []
    for model, kinds in _columns(result).items():
        first = next(iter(kinds.values()))
        cells = [[run[0] for run in first]]
        cells += [list(column) for runs in kinds.values() for column in list(zip(*runs, strict=True))[1:]]
        rows.append([f"`{model}`", str(len(first)), *map(mean_and_deviation, cells)])
    data = result["data"]
    note = (
        f"Top-1 accuracy in percent on {data['images']:,} images of {data['name']}; PGD with {result['pgd_steps']} "
        "steps, attacks in the L-infinity norm."
    )
    return f"{markdown_table(head, rows)}\n\n{note}"


def _plot(result: Shifts, path: Path) -> None:
    figure, axes = new_figure(1, len(result["strengths"]), 2.8, 2.6)
    for panel, (kind, strengths) in zip(axes[0], result["strengths"].items(), strict=True):
        for model, kinds in _columns(result).items():
            means = [mean(column) for column in zip(*kinds[kind], strict=True)]
            panel.plot([0, *strengths], means, marker="o", markersize=3, label=model)
        panel.set_title(kind, fontsize=9)
        panel.set_xlabel(f"strength ({STRENGTH_UNITS[kind].strip()})", fontsize=8)
        panel.set_ylim(0, 100)
    axes[0, 0].set_ylabel("accuracy, %")
    axes[0, 0].legend(fontsize=6)
    save_figure(figure, path)
