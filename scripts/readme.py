"""Writes the README's tables of results from the JSON that commands wrote, so that no figure in it is typed by hand.

`python scripts/readme.py` rewrites tables and plot; with `--check`, exit code 1 says that the tables are stale.
"""

import json
import sys
from pathlib import Path

from segmentation_table import table as segmentation_table

from timm_layeract._utils.writing import write_whole
from timm_layeract.adaptation.report import adaptations_table
from timm_layeract.analysis.convergence import convergence_table
from timm_layeract.checkpoints.manifest import (
    ROBUSTNESS,
    WEIGHTS_DIR,
    headline,
    over_seeds,
    read_manifest,
    training_length,
)
from timm_layeract.checkpoints.tables import p_value_table
from timm_layeract.robustness.plots import plot_categories, plot_forest
from timm_layeract.robustness.report import provenance, summary_table
from timm_layeract.training.compare import comparison_provenance, comparison_table

ROOT = Path(__file__).parent.parent
README = ROOT / "README.md"
IMAGES = ROOT / "docs" / "images"
COMPARISONS = ROOT / "docs" / "results"
ADAPTATIONS = COMPARISONS / "adapted"
CONVERGENCE = COMPARISONS / "convergence" / "convergence.json"
COMPATIBILITY = ROOT / "docs" / "compatibility.md"
SEGMENTATION = COMPARISONS / "segmentation" / "table14.json"


def models() -> str:
    """The trained models as a Markdown table."""
    rows = [
        "| model | data | test | mean ± deviation over seeds | held out | parameters | file | recipe |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, entry in read_manifest().items():
        held_out = headline(entry["validation"]) if entry["validation"] else "-"
        rows.append(
            f"| `{name}` | {entry['data']['name']} | {headline(entry['test'])} | {over_seeds(entry) or '-'} | "
            f"{held_out} | {entry['parameters']:,} | {entry['bytes'] / 2**20:.1f} MiB | "
            f"`{entry['recipe']['name']}`, {training_length(entry['recipe'])}, seed {entry['recipe']['seed']} |"
        )
    return "\n".join(rows)


def robustness() -> str:
    """Accuracy under corruptions: of each report a Markdown table, what was measured, tests over seeds and a plot."""
    parts = []
    manifest = read_manifest()
    for path in reports():
        result = json.loads(path.read_text())
        plot = plot_of(path).relative_to(ROOT)
        parts += [summary_table(result), provenance(result), f"![accuracy by category]({plot})"]
        for model in result["models"]:
            name, entry = model["name"], manifest[model["name"]]
            comparisons = entry["corrupted"]["comparisons"]
            if comparisons and any(activation.startswith("LA") for activation in entry["activations"].values()):
                parts.append(p_value_table(name, comparisons))
                parts.append(f"![differences with their intervals]({forest_of(name).relative_to(ROOT)})")
    return "\n\n".join(parts)


def reports() -> list[Path]:
    """What `layeract embed --robustness` wrote."""
    return sorted((WEIGHTS_DIR / ROBUSTNESS).glob("*.json"))


def plot_of(report: Path) -> Path:
    """Where the plot of a report goes."""
    return IMAGES / f"robustness_{report.stem}.png"


def forest_of(name: str) -> Path:
    """Where the plot of a network's differences to others goes."""
    return IMAGES / f"forest_{name}.png"


def comparisons() -> str:
    """What `layeract compare` wrote, each as a Markdown table with what was trained."""
    found = [json.loads(path.read_text()) for path in sorted(COMPARISONS.glob("*.json"))]
    parts = [f"{comparison_table(each)}\n\n{comparison_provenance(each)}" for each in found]
    return "\n\n".join(parts) or "None yet."


def segmentation() -> str:
    """The paper's table 14 again, from what `scripts/segmentation_table.py` wrote."""
    return segmentation_table(json.loads(SEGMENTATION.read_text()))


def convergence() -> str:
    """The second paper's table 1 again, from what `layeract convergence` wrote."""
    return convergence_table(json.loads(CONVERGENCE.read_text()))


def adaptations() -> str:
    """What `layeract adapt` came to, from the result.json of each run and those of weights that ship."""
    paths = [*ADAPTATIONS.glob("*.json"), *WEIGHTS_DIR.glob("results/*/*.json")]
    found = [result for path in sorted(paths) if "adaptation" in (result := json.loads(path.read_text()))]
    return adaptations_table(sorted(found, key=lambda result: (result["started_from"], result["adaptation"]["to"])))


def versions() -> str:
    """What the tests ran with, as `scripts/compatibility.py` wrote it."""
    return "\n".join(line for line in COMPATIBILITY.read_text().splitlines() if line.startswith("|"))


TABLES = {
    "versions": versions,
    "models": models,
    "robustness": robustness,
    "comparisons": comparisons,
    "segmentation": segmentation,
    "adaptations": adaptations,
    "convergence": convergence,
}


def main() -> None:
    """Rewrite or check."""
    text = fresh = README.read_text()
    for name, table in TABLES.items():
        before, begin, rest = fresh.partition(f"<!-- {name}: written by make readme -->")
        _, end, after = rest.partition(f"<!-- /{name} -->")
        if not end:
            sys.exit(f"README.md has no place for the table {name!r}, between comments as its other tables have.")
        fresh = f"{before}{begin}\n{table()}\n{end}{after}"
    if "--check" in sys.argv[1:]:
        sys.exit(None if fresh == text else "README.md is stale: run `make readme`.")
    write_whole(README, fresh)
    for path in reports():
        plot_categories(json.loads(path.read_text()), plot_of(path))
    for name, entry in read_manifest().items():
        if forest_of(name).relative_to(ROOT).as_posix() in fresh:
            plot_forest(name, entry["corrupted"]["comparisons"], forest_of(name))


if __name__ == "__main__":
    main()
