"""The manifest of trained weights: what each ``arch.tag`` is, where it lies, how it came about and what it scores.

`weights/manifest.json` is the one source: timm's configs, the model cards and the README's tables are made from it.
`records.Entry` says what an entry holds, and so does `weights/manifest.schema.json`, made from it by `make cards`;
`weights/datasets.json` has what is known of the data sets.
"""

import functools
import json
import re
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Final, cast

from .._utils.files import mean_and_deviation, write_json
from .._utils.records import check_record, read_record, schema_of
from .._utils.timm_types import PretrainedConfig
from ..errors import UserError, did_you_mean
from .records import Corrupted, DataSet, Entry, RecipeRecord

__all__ = [
    "CARDS_DIR",
    "FIGURES",
    "ROBUSTNESS",
    "SCHEMA",
    "SMP_CONFIG",
    "WEIGHTS_DIR",
    "check_manifest",
    "find_entry",
    "headline",
    "manifest_schema",
    "monitor_of",
    "over_seeds",
    "pretrained_cfgs",
    "read_data_sets",
    "read_manifest",
    "shipped",
    "training_length",
    "write_manifest",
]

WEIGHTS_DIR = Path(__file__).parents[1] / "weights"
CARDS_DIR = WEIGHTS_DIR.parents[1] / "hub_cards"  # in a clone: model cards and their pictures
MANIFEST = "manifest.json"
SCHEMA = "manifest.schema.json"
DATA_SETS = "datasets.json"
ROBUSTNESS = "robustness"  # folder of the results of networks under corruptions
HUB_FILE = "model.safetensors"
SMP_CONFIG: Final = "smp_config"  # in an entry of one of SMP's networks: what rebuilds it
# What tables call the figures in results, those that a task is judged by first.
FIGURES = {"top1": "top-1", "iou": "IoU", "dice": "Dice"}

NAME_PATTERN = r"[a-z0-9_-]+\.[a-z0-9_]+"  # arch.tag
Manifest = dict[str, Entry]


def read_manifest(directory: Path = WEIGHTS_DIR) -> Manifest:
    """The trained checkpoints: ``arch.tag`` -> hash, results, data, recipe, fingerprint, pretrained_cfg."""
    path = directory / MANIFEST
    return json.loads(path.read_text()) if path.exists() else {}


@functools.cache
def shipped() -> Mapping[str, Entry]:
    """The manifest of the package, read once: to be looked up in, not to be changed."""
    return MappingProxyType(read_manifest())


def manifest_schema() -> dict[str, object]:
    """JSON schema of the manifest."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Trained weights of timm-layeract",
        "type": "object",
        "propertyNames": {"pattern": f"^(?:{NAME_PATTERN})$"},
        "additionalProperties": schema_of(Entry),
    }


def write_manifest(manifest: Mapping[str, Entry], directory: Path = WEIGHTS_DIR) -> None:
    """Replace the manifest, sorted by name, whole or not at all."""
    write_json(directory / MANIFEST, dict(sorted(manifest.items())))


def read_data_sets() -> dict[str, DataSet]:
    """What is known of each data set, by the name that results call it."""
    return read_record(dict[str, DataSet], WEIGHTS_DIR / DATA_SETS)


def find_entry(name: str, manifest: Mapping[str, Entry]) -> tuple[str, Entry]:
    """The entry of ``arch.tag``, or of ``arch`` the first, which is timm's default tag.

    Raises:
        UserError: There is none.
    """
    for known, entry in manifest.items():
        if name in (known, known.split(".")[0]):
            return known, entry
    raise UserError(f"There are no trained weights {name!r}; {did_you_mean(name, manifest)}")


def training_length(recipe: RecipeRecord) -> str:
    """How long a recipe trains: ``72 epochs``, or ``64,000 steps``."""
    return f"{recipe['epochs']} epochs" if recipe["epochs"] else f"{recipe['steps']:,} steps"


def monitor_of(figures: Mapping[str, float]) -> str:
    """Which of a task's figures it is judged by: ``top1``, or ``iou`` of segmentation."""
    return "iou" if "iou" in figures else "top1"


def headline(figures: Mapping[str, float]) -> str:
    """The figure that a task is judged by, as ``88.86 % top-1`` or ``82.10 % IoU``."""
    monitor = monitor_of(figures)
    return f"{figures[monitor]:.2f} % {FIGURES[monitor]}"


def over_seeds(entry: Entry) -> str | None:
    """The test figure as ``88.10 ± 0.21 (3)``: mean, deviation and number of seeds; None for a single one."""
    scores = [seed["test"][monitor_of(seed["test"])] for seed in entry.get("seeds", [])]
    if len(scores) < 2:
        return None
    return f"{mean_and_deviation(scores)} ({len(scores)})"


def pretrained_cfgs(
    architecture: str, manifest: Mapping[str, Entry], directory: Path = WEIGHTS_DIR
) -> dict[str, PretrainedConfig]:
    """timm pretrained_cfg fields of an architecture's checkpoints, by ``arch.tag``.

    They name the embedded file where it is there, else the pinned revision on the Hub; an entry that has neither (a
    package built without its weights) is left out.
    """
    cfgs = {}
    for name, entry in manifest.items():
        if name.split(".")[0] != architecture:
            continue
        source = _source(entry, directory)
        if source:
            fields = {**entry["pretrained_cfg"], **source}
            # timm's configs hold tuples, which JSON turned into lists
            tupled = {key: tuple(value) if isinstance(value, list) else value for key, value in fields.items()}
            cfgs[name] = cast(PretrainedConfig, tupled)
    return cfgs


def _source(entry: Entry, directory: Path) -> dict[str, str]:
    embedded = directory / entry["file"]
    if embedded.is_file():
        return {"file": str(embedded)}
    hub = entry.get("hub")
    return {"hf_hub_id": f"{hub['repo']}@{hub['revision']}"} if hub else {}


def check_manifest(manifest: Mapping[str, Entry]) -> None:
    """Refuse a manifest that does not follow its schema, or names a data set of which nothing is known.

    Raises:
        UserError: Names the entry, the field and the fault.
    """
    check_record(Manifest, manifest, MANIFEST)
    for name, entry in manifest.items():
        if not re.fullmatch(NAME_PATTERN, name):
            raise UserError(f"{MANIFEST}: {name!r} is not a name of weights (ARCHITECTURE.TAG).")
        _check_meaning(name, entry)
    known = read_data_sets()
    for name, entry in manifest.items():
        data = entry["data"]["name"]
        if data not in known:
            raise UserError(f"{MANIFEST}, {name}: nothing is known of the data set {data!r}; add it to {DATA_SETS}.")


def _check_meaning(name: str, entry: Entry) -> None:
    """What the kinds of the fields do not say."""
    recipe = entry["recipe"]
    faults = {
        "activations": not entry["activations"],
        "recipe -> steps": not recipe["epochs"] and not recipe.get("steps"),
        "test": not {"top1", "iou"} & {*(entry["test"] or {})},
        "validation": entry["validation"] is not None and not {"top1", "iou"} & {*entry["validation"]},
        "seeds": any(not {"top1", "iou"} & {*seed["test"]} for seed in entry.get("seeds", [])),
        "twin -> test": "twin" in entry and not {"top1", "iou"} & {*entry["twin"]["test"]},
        "adaptation -> noise": "adaptation" in entry and "noise" not in entry["adaptation"],
        "corrupted": "corrupted" in entry and not _is_summary(entry["corrupted"]),
        "versions": not {"timm-layeract", "torch", "timm"} <= {*entry["versions"]},
    }
    wrong = [field for field, is_wrong in faults.items() if is_wrong]
    if wrong:
        raise UserError(f"{MANIFEST}, {name} -> {wrong[0]}: something that every entry has is missing ({SCHEMA}).")


def _is_summary(corrupted: Corrupted) -> bool:
    """Whether clean and total are there, and a deviation of each mean if of any."""
    mean, std = corrupted["mean"], corrupted["std"]
    return {"clean", "total"} <= {*mean} and (std is None or std.keys() == mean.keys())
