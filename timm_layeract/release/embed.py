"""Ships the weights of finished runs with the package."""

from pathlib import Path

from .._utils.timm_types import config_of
from .._utils.writing import copy_whole
from ..checkpoints.manifest import CARDS_DIR, WEIGHTS_DIR
from ..checkpoints.save import file_sha256
from ..data.masks import MaskSplit
from ..errors import UserError
from ..networks import load_network
from ..training.folder import PICTURE
from ..training.runs import SCORES, check_alike, read_environment, read_finished
from .shipped import embed_checkpoint, embedded_name

__all__ = ["embed_runs"]


def embed_runs(runs: list[Path], tag: str, directory: Path = WEIGHTS_DIR, cards: Path = CARDS_DIR) -> str:
    """Put the weights of the first run among those that ship with the package, and the results of all beside them.

    Args:
        runs: Folders of finished runs that differ in nothing but the seed.
        tag: Names the weights: ``cifar10`` in ``resnet20_lasilu.cifar10``.
        directory: Weights folder.
        cards: Folder of the model cards, which takes the first run's picture if it has one (segmentation).

    Returns:
        ``arch.tag``.

    Raises:
        UserError: A run that is not finished or not tested, that is of texts, or that differs from the first in more
            than the seed.
    """
    results = [read_finished(run) for run in runs]
    if results[0]["recipe"].get("task") == "text":
        raise UserError(
            f"{runs[0]} was trained on texts: weights ship without the vocabulary that such a network needs."
        )
    check_alike(runs, results)
    if results[0]["test"] is None:
        raise UserError(f"{runs[0]} has no test figures, as its data has no test split; weights do not ship without.")
    seeds = [result["recipe"]["seed"] for result in results]
    if len(set(seeds)) < len(seeds):
        raise UserError(f"Two of these runs have the same seed: {', '.join(map(str, seeds))}.")
    network = load_network(str(runs[0] / "model"))
    entry: dict[str, object] = {**results[0], **read_environment(runs[0])}
    entry["label_names"] = list(
        config_of(network).get("label_names", MaskSplit.classes)
    )  # which SMP's config has no place for
    entry["seeds"] = [
        {"seed": seed, **{part: dict(result)[part] for part in SCORES}}
        for seed, result in zip(seeds, results, strict=True)
    ]
    name = embedded_name(network, tag)
    entry["results"] = folder = f"results/{name}"
    for run, seed in zip(runs, seeds, strict=True):
        copy_whole(run / "result.json", directory / folder / f"seed{seed}.json")
    if (runs[0] / PICTURE).is_file():
        picture = cards / f"{name}.png"
        copy_whole(runs[0] / PICTURE, picture)
        entry["picture"] = {"file": picture.name, "sha256": file_sha256(picture)}
    return embed_checkpoint(network, tag, entry, directory)
