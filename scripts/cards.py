"""Writes hub_cards/ from the manifest: model card and evaluation results of every checkpoint, as they go to the Hub;
and the manifest's JSON schema.

`python scripts/cards.py` writes them, `--check` only says whether they and the manifest are in order (exit code 1 if
not).
"""

import json
import sys
from pathlib import Path

from timm_layeract._utils.writing import write_whole
from timm_layeract.checkpoints.manifest import (
    CARDS_DIR,
    SCHEMA,
    WEIGHTS_DIR,
    check_manifest,
    manifest_schema,
    read_manifest,
)
from timm_layeract.checkpoints.save import file_sha256
from timm_layeract.release.cards import card_files, pictures

FOLDER = CARDS_DIR


def main() -> None:
    """Write or check."""
    manifest = read_manifest()
    check_manifest(manifest)
    fresh = {name: text.encode() for name, text in card_files(manifest).items()}
    shown = pictures(manifest)  # which `layeract embed` puts there
    wrong = [name for name, sha256 in shown.items() if not _is(FOLDER / name, sha256)]
    if wrong:
        sys.exit(f"hub_cards/ lacks the pictures {', '.join(wrong)} as they were embedded: embed those networks again.")
    written = {path.name: path.read_bytes() for path in FOLDER.glob("*") if path.name not in shown}
    schema = json.dumps(manifest_schema(), indent=2) + "\n"
    if "--check" in sys.argv[1:]:
        if schema != (WEIGHTS_DIR / SCHEMA).read_text():
            sys.exit(f"{SCHEMA} is stale: run `make cards`.")
        stale = sorted(name for name in {**fresh, **written} if fresh.get(name) != written.get(name))
        sys.exit(f"hub_cards/ is stale ({', '.join(stale)}): run `make cards`." if stale else None)
    write_whole(WEIGHTS_DIR / SCHEMA, schema)
    for name in written.keys() - fresh.keys():
        (FOLDER / name).unlink()
    for name, content in fresh.items():
        write_whole(FOLDER / name, content)


def _is(path: Path, sha256: str) -> bool:
    return path.is_file() and file_sha256(path) == sha256


if __name__ == "__main__":
    main()
