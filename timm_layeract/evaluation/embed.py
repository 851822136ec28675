"""Ships a robustness result with the package: its JSON, and what it says of each network of the manifest.

Imports `files`, `manifest` and its siblings `networks` and `report`.
"""

import json
from pathlib import Path
from typing import Any

from ..errors import UserError
from ..files import write_json
from ..manifest import ROBUSTNESS, WEIGHTS_DIR, read_manifest, write_manifest
from .networks import load_networks
from .report import measured_on

__all__ = ["embed_robustness"]


def embed_robustness(file: Path, directory: Path = WEIGHTS_DIR) -> list[str]:
    """Put accuracies under corruptions into the manifest, from which cards take them, and the result beside it.

    Args:
        file: robustness.json of `layeract robustness`, of networks by their names in the manifest.
        directory: Weights folder.

    Returns:
        The networks it is of.

    Raises:
        UserError: No such result, of a network that is not in the manifest, of other weights, of other test images
            than those of its entry, or of a part of them.
    """
    try:
        result = json.loads(file.read_text())
        runs = {model["name"]: model["runs"][0] for model in result["models"]}
        measured = measured_on(result)
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise UserError(f"{file} is no robustness.json of `layeract robustness` ({error}).") from error
    manifest = read_manifest(directory)
    for name, run in runs.items():
        if name not in manifest:
            raise UserError(f"{file} is of {name}, which has no embedded weights; measure networks by their names.")
        if manifest[name]["data"]["test_sha256"] != result["data"]["sha256"]:
            raise UserError(f"{file} was measured on other images than the {name} that is embedded was tested on.")
        if run["sha256"] != load_networks([name])[0].sha256:
            raise UserError(f"{file} is of other weights than the {name} that is embedded; measure it again.")
    for name, run in runs.items():
        figures: dict[str, Any] = {"set": measured, "top1": run["total"], "categories": run["categories"]}
        manifest[name]["corrupted"] = figures
    write_json(directory / ROBUSTNESS, result)
    write_manifest(manifest, directory)
    return list(runs)
