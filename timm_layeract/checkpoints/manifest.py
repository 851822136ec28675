"""The manifest of trained weights: what each ``arch.tag`` is, where it lies, how it came about and what it scores.

`weights/manifest.json` is the one source: timm's configs, the model cards and the README's tables are made from it.
`weights/manifest.schema.json` says what an entry holds, `weights/datasets.json` what is known of the data sets.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .._utils.files import mean_and_deviation, write_json
from ..errors import UserError, did_you_mean

__all__ = [
    "CARDS_DIR",
    "FIGURES",
    "ROBUSTNESS",
    "SMP_CONFIG",
    "WEIGHTS_DIR",
    "check_manifest",
    "find_entry",
    "headline",
    "monitor_of",
    "over_seeds",
    "pretrained_cfgs",
    "read_data_sets",
    "read_manifest",
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
SMP_CONFIG = "smp_config"  # in an entry of one of SMP's networks: what rebuilds it
# What tables call the figures in results, those that a task is judged by first.
FIGURES = {"top1": "top-1", "iou": "IoU", "dice": "Dice"}

Entry = dict[str, Any]
Manifest = dict[str, Entry]


def read_manifest(directory: Path = WEIGHTS_DIR) -> Manifest:
    """The trained checkpoints: ``arch.tag`` -> hash, results, data, recipe, fingerprint, pretrained_cfg."""
    path = directory / MANIFEST
    return json.loads(path.read_text()) if path.exists() else {}


def write_manifest(manifest: Mapping[str, Entry], directory: Path = WEIGHTS_DIR) -> None:
    """Replace the manifest, sorted by name, whole or not at all."""
    write_json(directory / MANIFEST, dict(sorted(manifest.items())))


def read_data_sets() -> dict[str, dict[str, Any]]:
    """What is known of each data set, by the name that results call it: Hub id, licence, home page, description."""
    return json.loads((WEIGHTS_DIR / DATA_SETS).read_text())


def find_entry(name: str, manifest: Mapping[str, Entry]) -> tuple[str, Entry]:
    """The entry of ``arch.tag``, or of ``arch`` the first, which is timm's default tag.

    Raises:
        UserError: There is none.
    """
    for known, entry in manifest.items():
        if name in (known, known.split(".")[0]):
            return known, entry
    raise UserError(f"There are no trained weights {name!r}; {did_you_mean(name, manifest)}")


def training_length(recipe: Mapping[str, Any]) -> str:
    """How long a recipe trains: ``72 epochs``, or ``64,000 steps``."""
    return f"{recipe['epochs']} epochs" if recipe["epochs"] else f"{recipe['steps']:,} steps"


def monitor_of(figures: Mapping[str, Any]) -> str:
    """Which of a task's figures it is judged by: ``top1``, or ``iou`` of segmentation."""
    return "iou" if "iou" in figures else "top1"


def headline(figures: Mapping[str, Any]) -> str:
    """The figure that a task is judged by, as ``88.86 % top-1`` or ``82.10 % IoU``."""
    monitor = monitor_of(figures)
    return f"{figures[monitor]:.2f} % {FIGURES[monitor]}"


def over_seeds(entry: Mapping[str, Any]) -> str | None:
    """The test figure as ``88.10 ± 0.21 (3)``: mean, deviation and number of seeds; None for a single one."""
    scores = [seed["test"][monitor_of(seed["test"])] for seed in entry.get("seeds", [])]
    if len(scores) < 2:
        return None
    return f"{mean_and_deviation(scores)} ({len(scores)})"


def pretrained_cfgs(
    architecture: str, manifest: Mapping[str, Entry], directory: Path = WEIGHTS_DIR
) -> dict[str, dict[str, Any]]:
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
            cfgs[name] = {key: tuple(value) if isinstance(value, list) else value for key, value in fields.items()}
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
    import jsonschema

    schema = json.loads((WEIGHTS_DIR / SCHEMA).read_text())
    fault = jsonschema.exceptions.best_match(jsonschema.Draft202012Validator(schema).iter_errors(manifest))
    if fault is not None:
        where = " -> ".join(str(part) for part in fault.absolute_path) or "the top level"
        raise UserError(f"{MANIFEST}, {where}: {fault.message} ({SCHEMA} says what an entry holds).")
    known = read_data_sets()
    for name, entry in manifest.items():
        data = entry["data"]["name"]
        if data not in known:
            raise UserError(f"{MANIFEST}, {name}: nothing is known of the data set {data!r}; add it to {DATA_SETS}.")
