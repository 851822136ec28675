"""`layeract robustness` from start to files: networks and data by name in, a folder of tables and plots out."""

from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from .._utils.files import write_json
from .._utils.names import dataset_name
from .._utils.writing import check_folder
from ..data.classes import check_channels, label_names
from ..data.columns import Columns
from ..data.sources import ImageSplit
from ..data.test_images import load_test_split
from ..errors import UserError
from ..networks import Network, load_networks
from .accuracy import class_probabilities, default_device
from .cache import ResultCache
from .corruptions.constants import CORRUPTIONS, expand_names
from .corruptions.generate import RegeneratedSets
from .corruptions.released import ReleasedSets
from .measure import corruption_errors, measure
from .plots import plot_categories, plot_severities, plot_strip
from .records import Robustness
from .report import provenance, summary_table, write_csv, write_markdown

__all__ = ["common_size", "load_test_set", "robustness"]

STRIP_SEVERITY = 3


def robustness(
    models: Sequence[str],
    data: str,
    output: str | Path,
    *,
    released: str | Path | None = None,
    seeds: Sequence[int] = (),
    corruptions: Sequence[str] = (),
    baseline: str | None = None,
    limit: int | None = None,
    columns: Columns | None = None,
    data_name: str | None = None,
    corruption_seed: int = 0,
    bf16: bool = False,
    progress: bool = True,
    report: Callable[[str], None] = print,
) -> Robustness:
    """Measure models by name and write the report; returns what robustness.json holds.

    Args:
        models: Sources as `load_networks` takes them.
        data: The clean images, as `load_test_split` takes them.
        output: Folder for robustness.json, .csv, .md, the plots and the results so far (cache.jsonl).
        released: Folder of published corruptions, used in place of regenerated ones.
        seeds: What ``{seed}`` in a source stands for.
        corruptions: Names or categories; all that the sets have of the 19 if empty.
        baseline: Source of the model, as given, that corruption errors are relative to, or ``alexnet``.
        limit: Measure the first images only.
        columns: Which columns of the data, where several may be meant.
        data_name: What results call the data; the last part of `data` if None.
        corruption_seed: Seed of regenerated corruptions.
        bf16: Compute under bfloat16 autocast.
        progress: Show progress bars.
        report: Called with text for a person to read.

    Raises:
        UserError: Anything that is not there or does not fit.
    """
    if released is not None and limit is not None:
        raise UserError("--limit cuts the clean images, which released corruptions then no longer match.")
    check_folder(Path(output))
    names = expand_names(corruptions)
    networks, clean = load_test_set(models, seeds, data, limit, progress, columns)
    sets: ReleasedSets | RegeneratedSets = RegeneratedSets(clean, corruption_seed)
    if released is not None:
        height, width = clean.images.shape[2:]
        sets = ReleasedSets(released, clean.classes, (height, width))
    names = names or [name for name in CORRUPTIONS if name in sets.names]
    if isinstance(sets, ReleasedSets):
        for name in names:
            sets.check(name)
    output = Path(output)
    result = measure(
        networks,
        clean,
        sets,
        data_name or dataset_name(data),
        ResultCache(output / "cache.jsonl"),
        corruptions=names,
        baseline=baseline,
        bf16=bf16,
        progress=progress,
    )
    result["corruption_errors"] = corruption_errors(result)
    write_json(output / "robustness.json", result)
    write_csv(result, output / "robustness.csv")
    plot_categories(result, output / "categories.png")
    plot_severities(result, output / "severities.png")
    _strip(networks, clean, sets, list(result["sets"]), output / "strip.png")
    write_markdown(result, output / "robustness.md")
    report(f"{summary_table(result)}\n\n{provenance(result)}\nWritten to {output}.")
    return result


def load_test_set(
    models: Sequence[str],
    seeds: Sequence[int],
    data: str,
    limit: int | None,
    progress: bool,
    columns: Columns | None = None,
) -> tuple[list[Network], ImageSplit]:
    """Networks on the device they are measured on, and the test images in the size that they take.

    Raises:
        UserError: As `load_networks`, `common_size` and `load_test_split`; no images; classes that the networks do not
            have, by name; networks that name other classes.
    """
    networks = load_networks(models, seeds)
    clean = load_test_split(data, common_size(networks), progress, columns, _common_classes(networks))
    for network in networks:
        check_channels(network.module.network)
    if limit is not None:
        clean = clean.take(torch.arange(min(limit, len(clean))))
    if len(clean) == 0:
        raise UserError(f"{data} holds no test images.")
    return [network.to(default_device()) for network in networks], clean


def _common_classes(networks: Sequence[Network]) -> tuple[str, ...]:
    """The class names of the networks, in their order, which the data's labels must follow; empty if they name none."""
    named = {network.source: names for network in networks if (names := label_names(network.module.network))}
    for source, names in named.items():
        first = next(iter(named))
        if names != named[first]:
            raise UserError(f"{source} and {first} have other classes, or in another order: measure them apart.")
    return next(iter(named.values()), ())


def common_size(networks: Sequence[Network]) -> tuple[int, int]:
    """The one image size (H, W) that the networks take.

    Raises:
        UserError: They take several, or none says which.
    """
    sizes = {network.image_size: network.source for network in networks if network.image_size}
    if len(sizes) != 1:
        named = ", ".join(f"{source} {height}x{width}" for (height, width), source in sizes.items())
        raise UserError(
            f"The models take different image sizes ({named}); measure them apart."
            if named
            else "No model says its image size; give it a pretrained_cfg with input_size."
        )
    return next(iter(sizes))


def _strip(
    networks: Sequence[Network],
    clean: ImageSplit,
    sets: ReleasedSets | RegeneratedSets,
    names: Sequence[str],
    path: Path,
) -> None:
    """The first image under each corruption, with the predictions of the first seed of each model."""
    pictures = {"clean": clean.images[0], **{name: sets.sample(name, STRIP_SEVERITY, 0) for name in names}}
    first = {network.label: network for network in reversed(networks)}
    stacked = torch.stack(list(pictures.values()))
    predictions = {
        label: [clean.classes[index] for index in _predicted(network, stacked, len(clean.classes))]
        for label, network in reversed(first.items())
    }
    plot_strip(pictures, predictions, clean.classes[int(clean.labels[0])], path)


def _predicted(network: Network, images: torch.Tensor, classes: int) -> list[int]:
    return class_probabilities(network, images, classes).argmax(1).tolist()
