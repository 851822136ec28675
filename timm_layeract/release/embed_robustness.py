"""Ships a robustness result with the package: its JSON, and what it says of each network of the manifest."""

from pathlib import Path

from .._utils.files import write_json
from .._utils.records import check_record, read_record
from ..checkpoints.manifest import ROBUSTNESS, WEIGHTS_DIR, monitor_of, read_manifest, write_manifest
from ..checkpoints.records import Comparison
from ..errors import UserError
from ..networks import load_networks
from ..robustness.measure import corruption_errors
from ..robustness.records import Robustness
from ..robustness.report import measured_on
from ..robustness.significance import compare_models

__all__ = ["embed_robustness"]


def embed_robustness(file: Path, directory: Path = WEIGHTS_DIR) -> list[str]:
    """Put accuracies under corruptions into the manifest, from which cards take them, and the result beside it.

    A model of the result is the embedded network that one of its runs has the weights of. Where every model has three
    seeds or more, each is compared with the others.

    Args:
        file: robustness.json of `layeract robustness`.
        directory: Weights folder.

    Returns:
        The networks it is of.

    Raises:
        UserError: No such result, of weights that are not embedded, or not all under one tag, or of other test images
            than those of their entry.
    """
    result = read_record(Robustness, file)
    runs = {model["name"]: [run["sha256"] for run in model["runs"]] for model in result["models"]}
    measured = measured_on(result)
    manifest = read_manifest(directory)
    classifiers = [name for name, entry in manifest.items() if monitor_of(entry["test"]) == "top1"]
    embedded = {network.sha256: network.label for network in load_networks(classifiers)}
    names: dict[str, str] = {}
    for label, hashes in runs.items():
        name = next((embedded[sha256] for sha256 in hashes if sha256 in embedded), None)
        if name is None:
            raise UserError(f"{file}: no run of {label} has weights that are embedded; embed them, or measure again.")
        if manifest[name]["data"]["test_sha256"] != result["data"]["sha256"]:
            raise UserError(f"{file} was measured on other images than the {name} that is embedded was tested on.")
        names[label] = name
    tags = sorted({name.split(".")[1] for name in names.values()})
    if len(tags) > 1:
        raise UserError(f"{file} covers networks tagged {' and '.join(tags)}; measure those with one tag together.")
    for model in result["models"]:
        model["name"] = names[model["name"]]
    result["baseline"] = names.get(result["baseline"] or "", result["baseline"])
    result["corruption_errors"] = corruption_errors(result)
    report = f"{ROBUSTNESS}/{tags[0]}.json"
    for model in result["models"]:
        manifest[model["name"]]["corrupted"] = {
            "set": measured,
            "report": report,
            "networks": len(model["runs"]),
            "mean": model["mean"],
            "std": model["std"],
            "comparisons": _comparisons(result, model["name"]),
        }
    write_json(directory / report, result)
    write_manifest(manifest, directory)
    return [model["name"] for model in result["models"]]


def _comparisons(result: Robustness, name: str) -> list[Comparison]:
    """Tests of a model against the others; none if there are too few seeds to test."""
    if len(result["models"]) < 2 or min(len(model["runs"]) for model in result["models"]) < 3:
        return []
    rows = compare_models({result["data"]["name"]: result["models"]}, name)
    return check_record(list[Comparison], rows, name)
