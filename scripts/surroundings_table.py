"""Writes docs/surroundings.md: what comes of a network that something wraps, from the cases of the tests, each run.

`python scripts/surroundings_table.py` from the repository's root.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))  # the tests

from tests.surroundings import CASES, MODEL, Outcome, outcome, registered
from timm_layeract._utils.files import markdown_table
from timm_layeract._utils.writing import write_whole

PAGE = Path(__file__).parent.parent / "docs" / "surroundings.md"
EXACT, ROUNDED = 1e-5, 0.05  # of the largest logit: float32, bfloat16
INTRODUCTION = f"""# What wraps a network, and what comes of it

`{MODEL}` runs its BatchNorms and LayerActs in one pass. Where something watches, replaces, moves or traces a
module, that module and its neighbours run one by one instead: what is computed stays the same. Logits are compared with
those of the plain definition, module by module, in float64. Written from the cases of the tests, which also run them
with a network that holds `BatchNormLayerAct2d`, by `python scripts/surroundings_table.py`.
"""


def render() -> str:
    """The page."""
    rows = [[what, *_came(outcome(registered, run))] for what, run in CASES.items()]
    return f"{INTRODUCTION}\n{markdown_table(['what wraps the network', 'logits', 'in one pass'], rows)}\n"


def _came(of: Outcome) -> list[str]:
    """Two cells of a row."""
    if of.refused:
        return [f"refused: {of.refused}", "-"]
    logits = "the same" if of.error < EXACT else "the same, in bfloat16" if of.error < ROUNDED else "OTHERS"
    return [logits, f"{of.fused} of {of.sites}"]


if __name__ == "__main__":
    write_whole(PAGE, render())
