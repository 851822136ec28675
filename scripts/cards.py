"""Writes hub_cards/ from the manifest: model card and evaluation results of every checkpoint, as they go to the Hub.

`python scripts/cards.py` writes them, `--check` only says whether they and the manifest are in order (exit code 1 if
not).
"""

import sys
from pathlib import Path

from timm_layeract.hub.cards import card_files
from timm_layeract.manifest import check_manifest, read_manifest

FOLDER = Path(__file__).parent.parent / "hub_cards"


def main() -> None:
    """Write or check."""
    manifest = read_manifest()
    check_manifest(manifest)
    fresh = {name: text.encode() for name, text in card_files(manifest).items()}
    FOLDER.mkdir(exist_ok=True)
    written = {path.name: path.read_bytes() for path in FOLDER.iterdir()}
    if "--check" in sys.argv[1:]:
        stale = sorted(name for name in {**fresh, **written} if fresh.get(name) != written.get(name))
        sys.exit(f"hub_cards/ is stale ({', '.join(stale)}): run `make cards`." if stale else None)
    for name in written.keys() - fresh.keys():
        (FOLDER / name).unlink()
    for name, content in fresh.items():
        (FOLDER / name).write_bytes(content)


if __name__ == "__main__":
    main()
