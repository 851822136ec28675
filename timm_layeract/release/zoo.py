"""What trained weights there are, here and on the Hub, and fetching them."""

from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

from ..checkpoints.load import entry_weights
from ..checkpoints.manifest import (
    FIGURES,
    SMP_CONFIG,
    WEIGHTS_DIR,
    find_entry,
    headline,
    over_seeds,
    read_data_sets,
    read_manifest,
    training_length,
)

__all__ = ["Weights", "describe_weights", "get_weights", "list_weights"]


@dataclass(frozen=True)
class Weights:
    """One trained checkpoint.

    Attributes:
        name: ``arch.tag``.
        data: Data set it was trained on.
        test: The figure that it is judged by, on test data: ``88.86 % top-1``, ``82.10 % IoU``.
        parameters: Number of parameters.
        bytes: Size of the file.
        embedded: Whether the file ships with this installation.
        hub: ``ORG/NAME@REVISION`` where it was published, else None.
    """

    name: str
    data: str
    test: str
    parameters: int
    bytes: int
    embedded: bool
    hub: str | None

    @property
    def place(self) -> str:
        """Where it is, in words."""
        return " and ".join([*(["package"] if self.embedded else []), *(["Hub"] if self.hub else [])]) or "missing"


def list_weights(pattern: str = "*") -> list[Weights]:
    """The trained weights whose name matches a shell pattern, as `timm.list_models` takes them."""
    found = []
    for name, entry in read_manifest().items():
        if fnmatch(name, pattern):
            hub = entry.get("hub")
            found.append(
                Weights(
                    name,
                    entry["data"]["name"],
                    headline(entry["test"]),
                    entry["parameters"],
                    entry["bytes"],
                    (WEIGHTS_DIR / entry["file"]).is_file(),
                    f"{hub['repo']}@{hub['revision']}" if hub else None,
                )
            )
    return found


def describe_weights(name: str) -> dict[str, str]:
    """What is known of a checkpoint, label -> value, in the order to show it.

    Raises:
        UserError: There is no such checkpoint.
    """
    name, entry = find_entry(name, read_manifest())
    (weights,) = list_weights(name)
    seeds, corrupted = over_seeds(entry), entry.get("corrupted")
    recipe, data, cfg = entry["recipe"], entry["data"], entry["pretrained_cfg"]
    return {
        "name": name,
        "load by": f'timm_layeract.smp.load_by_name("{name}")'
        if SMP_CONFIG in entry
        else f'timm.create_model("{name}", pretrained=True)',
        "where": weights.place + (f" ({weights.hub})" if weights.hub else ""),
        "file": f"{entry['file']}, {entry['bytes']:,} bytes, {entry['dtype']}",
        "sha256": entry["sha256"],
        "parameters": f"{entry['parameters']:,}",
        "activations": ", ".join(sorted(set(entry["activations"].values()))),
        "input": f"{tuple(cfg['input_size'])}, mean {cfg['mean']}, std {cfg['std']}",
        "classes": f"{cfg['num_classes']}: " + ", ".join(cfg.get("label_names", ["unnamed"])),
        "data": f"{data['name']}, {data['train_images']:,} training images",
        "terms": f"weights {cfg['license']}; data {read_data_sets()[data['name']]['license']}",
        "test": _figures(entry["test"]),
        **({"over seeds": seeds} if seeds else {}),
        **({"held-out": _figures(entry["validation"])} if entry["validation"] else {}),
        **({"corrupted": f"{corrupted['mean']['total']:.2f} % top-1 on {corrupted['set']}"} if corrupted else {}),
        "recipe": f"{recipe['name']}, {training_length(recipe)}, seed {recipe['seed']}",
        "trained": f"{entry['date']} on {entry['device']}, {entry['train_seconds'] / 3600:.1f} hours",
        "versions": ", ".join(f"{package} {version}" for package, version in entry["versions"].items()),
    }


def _figures(results: Mapping[str, float]) -> str:
    """``88.86 % top-1``, or ``82.10 % IoU, 90.17 % Dice``."""
    return ", ".join(f"{results[key]:.2f} % {called}" for key, called in FIGURES.items() if key in results)


def get_weights(name: str) -> Path:
    """The checked weight file of ``arch.tag`` or ``arch``: see `entry_weights`."""
    _, entry = find_entry(name, read_manifest())
    return entry_weights(entry)
