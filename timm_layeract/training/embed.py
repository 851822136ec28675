"""Ships the weights of finished runs with the package. Imports timm, `checkpoints` and `runs`."""

import shutil
from pathlib import Path

import timm

from ..checkpoints import embed_checkpoint
from ..errors import UserError
from ..manifest import WEIGHTS_DIR
from .runs import FIGURES, check_alike, read_finished

__all__ = ["embed_runs"]


def embed_runs(runs: list[Path], tag: str, directory: Path = WEIGHTS_DIR) -> str:
    """Put the weights of the first run among those that ship with the package, and the results of all beside them.

    Args:
        runs: Folders of finished runs that differ in nothing but the seed.
        tag: Names the weights: ``cifar10`` in ``resnet20_lasilu.cifar10``.
        directory: Weights folder.

    Returns:
        ``arch.tag``.

    Raises:
        UserError: A run that is not finished, that is of texts, or that differs from the first in more than the seed.
    """
    results = [read_finished(run) for run in runs]
    if results[0]["recipe"].get("task") == "text":
        raise UserError(f"{runs[0]} is of texts: weights ship without the vocabulary that such a network needs.")
    check_alike(runs, results)
    seeds = [result["recipe"]["seed"] for result in results]
    if len(set(seeds)) < len(seeds):
        raise UserError(f"Two of these runs have the same seed: {', '.join(map(str, seeds))}.")
    network = timm.create_model(f"local-dir:{runs[0] / 'model'}", pretrained=True)
    entry = {**results[0], **read_finished(runs[0], "environment.json")}
    entry["label_names"] = list(network.pretrained_cfg["label_names"])  # type: ignore[index]
    entry["seeds"] = [
        {"seed": seed, **{part: result[part] for part in FIGURES}} for seed, result in zip(seeds, results, strict=True)
    ]
    name = f"{results[0]['model']}.{tag}"
    entry["results"] = f"results/{name}"
    folder = directory / entry["results"]
    folder.mkdir(parents=True, exist_ok=True)
    for run, seed in zip(runs, seeds, strict=True):
        shutil.copyfile(run / "result.json", folder / f"seed{seed}.json")
    return embed_checkpoint(network, tag, entry, directory)
