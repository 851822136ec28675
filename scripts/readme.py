"""Writes the README's table of trained models from the manifest, so that no figure in it is typed by hand.

`python scripts/readme.py` rewrites the table, `--check` only says whether it is up to date (exit code 1 if not).
"""

import sys
from pathlib import Path

from timm_layeract.manifest import over_seeds, read_manifest, training_length

README = Path(__file__).parent.parent / "README.md"
BEGIN, END = "<!-- models: written by make readme -->", "<!-- /models -->"


def table() -> str:
    """The trained models as a Markdown table."""
    rows = [
        "| model | data | test top-1 | mean ± deviation over seeds | held-out top-1 | parameters | file | recipe |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, entry in read_manifest().items():
        rows.append(
            f"| `{name}` | {entry['data']['name']} | {entry['test']['top1']:.2f} % | "
            f"{over_seeds(entry) or '-'} | {entry['validation']['top1']:.2f} % | "
            f"{entry['parameters']:,} | {entry['bytes'] / 2**20:.1f} MiB | "
            f"`{entry['recipe']['name']}`, {training_length(entry['recipe'])}, seed {entry['recipe']['seed']} |"
        )
    return "\n".join(rows)


def main() -> None:
    """Rewrite or check."""
    text = README.read_text()
    before, rest = text.split(BEGIN)
    after = rest.split(END)[1]
    fresh = f"{before}{BEGIN}\n{table()}\n{END}{after}"
    if "--check" in sys.argv[1:]:
        sys.exit(None if fresh == text else "README.md is stale: run `make readme`.")
    README.write_text(fresh)


if __name__ == "__main__":
    main()
