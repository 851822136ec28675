"""Accuracy on clean and on corrupted images, of several networks and seeds: the numbers of the papers' tables."""

from collections.abc import Mapping, Sequence
from statistics import mean, stdev
from typing import Protocol

from .._utils.files import Surroundings, surroundings
from .._utils.progress import progress_bar
from ..data.sources import ImageSplit
from ..errors import UserError, did_you_mean
from ..networks import Network
from .accuracy import Score, score
from .cache import ResultCache
from .corruptions.constants import CATEGORIES, COMMON, CORRUPTIONS, SEVERITIES, benchmark_of
from .corruptions.generate import VERSIONS
from .records import Means, MeasuredModel, MeasuredRun, OverSeeds, Robustness

__all__ = ["ALEXNET", "CorruptedSets", "corruption_errors", "means_of", "measure"]

ALEXNET = "alexnet"
# Mean errors of AlexNet on ImageNet-C over the five severities, as Hendrycks & Dietterich published them.
_ALEXNET_ERRORS = {
    "gaussian_noise": 88.6428, "shot_noise": 89.4468, "impulse_noise": 92.2640,
    "defocus_blur": 81.9880, "glass_blur": 82.6268, "motion_blur": 78.5948, "zoom_blur": 79.8360,
    "snow": 86.6816, "frost": 82.6572, "fog": 81.9324, "brightness": 56.4592,
    "contrast": 85.3204, "elastic_transform": 64.6056, "pixelate": 71.7840, "jpeg_compression": 60.6500,
}  # fmt: skip
Accuracies = Mapping[str, Sequence[float]]
"""Corruption -> accuracy in percent at each severity."""


class CorruptedSets(Protocol):
    """Where corrupted sets come from: `RegeneratedSets` or `ReleasedSets`."""

    origin: str

    @property
    def names(self) -> tuple[str, ...]: ...

    def recipe(self, name: str, severity: int) -> str | None: ...

    def load(self, name: str, severity: int) -> ImageSplit: ...


def measure(
    networks: Sequence[Network],
    clean: ImageSplit,
    sets: CorruptedSets,
    data_name: str,
    cache: ResultCache,
    *,
    corruptions: Sequence[str] = CORRUPTIONS,
    baseline: str | None = None,
    bf16: bool = False,
    progress: bool = True,
) -> Robustness:
    """Measure networks on a clean split and its corruptions.

    Args:
        networks: Those with one label are the seeds of one model.
        clean: Uncorrupted images.
        sets: Corrupted ones.
        data_name: What results call the data.
        cache: Known results; every new one is written to it at once.
        corruptions: Which.
        baseline: Label of the model whose errors the corruption errors are relative to, or ``alexnet``.
        bf16: Compute under bfloat16 autocast.
        progress: Show a progress bar.

    Returns:
        What robustness.json holds: ``data``, ``sets`` with their hashes, ``models`` with ``runs`` (a network each:
        ``clean``, ``accuracy`` by corruption and severity, ``common`` over the fifteen of leaderboards, ``total``,
        ``categories``, ``calibration_error``, in percent) and their ``mean`` and ``std``.

    Raises:
        UserError: A corruption that the sets lack, an unknown baseline, a network with another number of classes.
    """
    unknown = [name for name in corruptions if name not in sets.names]
    if unknown:
        raise UserError(f"There is no corruption {unknown[0]!r} in these sets; {did_you_mean(unknown[0], sets.names)}")
    labels = list(dict.fromkeys(network.label for network in networks))
    height, width = clean.images.shape[2:]
    benchmark = benchmark_of(height, width)
    _check_baseline(baseline, labels, benchmark, corruptions)
    counts = _Scores(networks, sets, cache, bf16)
    jobs = [(name, severity) for name in corruptions for severity in SEVERITIES]
    with progress_bar(progress) as bar:
        task = bar.add_task("clean", total=1 + len(jobs))
        counts.add("clean", 0, clean.sha256(), clean)
        bar.advance(task)
        for name, severity in jobs:
            bar.update(task, description=f"{name} {severity}")
            counts.add_corrupted(name, severity, len(clean))
            bar.advance(task)
    where = measured_in(networks[0])
    return {
        "data": {
            "name": data_name,
            "images": len(clean),
            "sha256": clean.sha256(),
            "corruptions": sets.origin,
            "strengths": benchmark if sets.origin == "regenerated" else None,
        },
        "sets": {name: [counts.hashes[name, severity] for severity in SEVERITIES] for name in corruptions},
        "models": [_model(label, networks, counts.scores, len(clean), corruptions) for label in labels],
        "baseline": baseline,
        "precision": "bf16" if bf16 else "float32",
        "device": where["device"],
        "date": where["date"],
        "versions": where["versions"],
    }


def measured_in(network: Network) -> Surroundings:
    """`surroundings` of a result, with the versions that corrupted images depend on."""
    found = surroundings(next(network.module.parameters()).device, ("torch", "timm"))
    return {**found, "versions": {**found["versions"], **VERSIONS}}


class _Scores:
    """Scores of every network on every set, taken from the cache where it knows them."""

    def __init__(self, networks: Sequence[Network], sets: CorruptedSets, cache: ResultCache, bf16: bool) -> None:
        self.networks, self.sets, self.cache, self.bf16 = networks, sets, cache, bf16
        self.scores: dict[tuple[str, str, int], Score] = {}
        self.hashes: dict[tuple[str, int], str] = {}

    def add_corrupted(self, name: str, severity: int, count: int) -> None:
        """Measure on a corrupted set, which is made or read only where its hash or a result is unknown."""
        recipe = self.sets.recipe(name, severity)
        images, split = self.cache.set_hash(recipe), None
        if images is None:
            split = self.sets.load(name, severity)
            if len(split) != count:
                raise UserError(f"{name} {severity} has {len(split)} images, the clean data {count}.")
            images = split.sha256()
            self.cache.put_set(recipe, images)
        self.hashes[name, severity] = images
        self.add(name, severity, images, split)

    def add(self, name: str, severity: int, images: str, split: ImageSplit | None) -> None:
        """Measure on the set with this hash, which is loaded if needed and not given."""
        for network in self.networks:
            key = network.sha256 + (" bf16" if self.bf16 else "")
            known = self.cache.score(key, images)
            if known is None:
                split = self.sets.load(name, severity) if split is None else split
                known = score(network, split, self.bf16)
                self.cache.put_score(key, images, known)
            self.scores[network.source, name, severity] = known


def _check_baseline(baseline: str | None, labels: list[str], benchmark: str, corruptions: Sequence[str]) -> None:
    if baseline == ALEXNET and benchmark != "ImageNet-C":
        raise UserError("AlexNet's published errors belong to ImageNet-C; give one of the models as --baseline.")
    if baseline not in (None, ALEXNET, *labels):
        raise UserError(f"The baseline {baseline!r} is not one of the models; {did_you_mean(str(baseline), labels)}")
    missing = [name for name in COMMON if name not in corruptions]
    if baseline is not None and missing:
        raise UserError(f"The mean corruption error is over 15 corruptions, and {missing[0]} is left out.")


def _model(
    label: str,
    networks: Sequence[Network],
    scores: dict[tuple[str, str, int], Score],
    images: int,
    corruptions: Sequence[str],
) -> MeasuredModel:
    """The runs of one model, and their mean and deviation."""
    runs: list[MeasuredRun] = []
    for network in networks:
        if network.label == label:
            clean = scores[network.source, "clean", 0]
            corrupted = {name: [scores[network.source, name, s] for s in SEVERITIES] for name in corruptions}
            accuracy = {name: [100 * each.correct / images for each in found] for name, found in corrupted.items()}
            errors = {name: [each.calibration_error for each in found] for name, found in corrupted.items()}
            runs.append(
                {
                    "source": network.source,
                    "seed": network.seed,
                    "sha256": network.sha256,
                    "parameters": network.parameters,
                    "clean": 100 * clean.correct / images,
                    **means_of(accuracy),
                    "accuracy": accuracy,
                    "calibration_error": {"clean": clean.calibration_error, "common": over_common(errors)},
                }
            )
    return {"name": label, "runs": runs, **over_seeds(runs)}


def means_of(accuracy: Accuracies) -> Means:
    """Means over the corruptions: the fifteen common ones, in total (the 19, as far as measured), each category."""
    means = {name: mean(values) for name, values in accuracy.items()}
    return {
        "common": over_common(accuracy),
        "total": mean(counted) if (counted := [means[name] for name in CORRUPTIONS if name in means]) else None,
        "categories": {
            category: mean(measured)
            for category, names in CATEGORIES.items()
            if (measured := [means[name] for name in names if name in means])
        },
    }


def over_common(figures: Accuracies) -> float | None:
    """Mean over the fifteen common corruptions, None where one was not measured."""
    return mean(mean(figures[name]) for name in COMMON) if set(COMMON) <= set(figures) else None


def figures_of(run: MeasuredRun) -> dict[str, float]:
    """``clean``, ``common``, ``total`` and the categories of one network, as far as they were measured."""
    found = {"clean": run["clean"], "common": run.get("common"), "total": run["total"], **run["categories"]}
    return {key: value for key, value in found.items() if value is not None}


def over_seeds(runs: Sequence[MeasuredRun]) -> OverSeeds:
    """Mean and sample deviation of the figures over the runs of a model, and the mean calibration error."""
    figures = [figures_of(run) for run in runs]
    errors = [run.get("calibration_error", {}) for run in runs]
    columns = {key: [each[key] for each in figures] for key in figures[0]}
    return {
        "mean": {key: mean(values) for key, values in columns.items()},
        "std": {key: stdev(values) for key, values in columns.items()} if len(runs) > 1 else None,
        "calibration_error": {
            key: mean(each[key] or 0.0 for each in errors) for key, value in errors[0].items() if value is not None
        },
    }


def corruption_errors(result: Robustness) -> dict[str, dict[str, float]] | None:
    """Corruption errors of each model of a result, relative to its baseline: model -> corruption or ``mCE`` -> percent.

    CE is the sum of the errors over the severities, divided by the baseline's; mCE is the mean CE of the 15 corruptions
    without the extra ones (Hendrycks & Dietterich 2019, section 4.1). None without a baseline.
    """
    baseline = result["baseline"]
    if baseline is None:
        return None
    errors = {
        model["name"]: {
            name: mean(100 - value for run in model["runs"] for value in run["accuracy"][name]) for name in COMMON
        }
        for model in result["models"]
    }
    reference = _ALEXNET_ERRORS if baseline == ALEXNET else errors[baseline]
    if min(reference.values()) == 0:
        raise UserError(f"The baseline {baseline} makes no error on a corruption, so no error is relative to it.")
    found = {}
    for model, own in errors.items():
        relative = {name: 100 * own[name] / reference[name] for name in reference}
        found[model] = {**relative, "mCE": mean(relative.values())}
    return found
