"""Writes docs/data.md: what lies in a folder, and what is read of it, from the cases of the tests, each made and read.

`python scripts/data_table.py` from the repository's root.
"""

import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))  # the tests

from tests.data.folder_cases import CASES, Case
from timm_layeract._utils.files import markdown_table
from timm_layeract._utils.writing import write_whole
from timm_layeract.data.opening import open_data_set
from timm_layeract.data.sources import load_splits
from timm_layeract.errors import UserError

PAGE = Path(__file__).parent.parent / "docs" / "data.md"
INTRODUCTION = """# What is read of a folder

Nothing is guessed from a file's name. The top level of a folder of images is either splits (`train`, `val`, `test` and
what else people call them) or classes, and what lies below a class folder is of that class. What may be read in two
ways is refused. Written from the cases of the tests by `python scripts/data_table.py`.
"""


def render() -> str:
    """The page."""
    rows = [[case.lies, _read(case)] for case in CASES.values()]
    return f"{INTRODUCTION}\n{markdown_table(['what lies in the folder', 'what is read'], rows)}\n"


def _read(case: Case) -> str:
    """What is read of a case's folder, or why nothing is."""
    with tempfile.TemporaryDirectory() as root:
        case.make(Path(root))
        place = Path(root, "data") if Path(root, "data").is_dir() else Path(root)
        said: list[str] = []
        try:
            open_data_set(str(place), report=said.append)
            if not isinstance(case.read, dict) or "train" in case.read:
                load_splits(str(place), (8, 8), progress=False)
        except UserError as error:
            return f"refused: {str(error).replace(f'{place}/', '').replace(str(place), 'the folder')}"
        return said[0].partition(": ")[2]


if __name__ == "__main__":
    write_whole(PAGE, render())
