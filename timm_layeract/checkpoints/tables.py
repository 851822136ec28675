"""Tables of what records hold, as model cards, reports and the README show them."""

import statistics
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from .._utils.files import markdown_table
from .records import Noise, Scores

__all__ = ["NETWORKS", "SIGNIFICANT", "cells_over_seeds", "noise_table", "p_value_table"]

# Whose figures an adaptation puts side by side.
NETWORKS: tuple[Literal["original"], Literal["adapted"]] = ("original", "adapted")
SIGNIFICANT = 0.05  # p-values below it are bold


def cells_over_seeds(mean: Scores, std: Scores | None) -> list[str]:
    """``88.10 ± 0.21`` of each figure; ``88.10`` of a single seed, which has no deviation."""
    return [f"{value:.2f}" + (f" ± {std[key]:.2f}" if std else "") for key, value in mean.items()]


def p_value_table(model: str, comparisons: Sequence[Mapping[str, Any]], place: Sequence[str] = ("measure",)) -> str:
    """Differences of one model to others, a column each, with corrected p-values, bold where they are significant.

    Args:
        model: Its name.
        comparisons: What `layeract significance` computes: ``against``, ``difference``, ``p_holm`` and what says where.
        place: Keys of a comparison that tell the rows of the table apart.
    """
    others = list(dict.fromkeys(row["against"] for row in comparisons))
    cells: dict[tuple[str, ...], dict[str, str]] = {}
    for row in comparisons:
        p = "< 1e-3" if row["p_holm"] < 1e-3 else f"{row['p_holm']:.3f}"
        shown = f"{row['difference']:+.2f} ({p})"
        found = cells.setdefault(tuple(row[key] for key in place), {})
        found[row["against"]] = f"**{shown}**" if row["p_holm"] < SIGNIFICANT else shown
    rows = [[*where, *(found.get(other, "-") for other in others)] for where, found in cells.items()]
    named = dict.fromkeys(row["measure"] for row in comparisons if row.get("hypothesis"))
    corrected = sum(not row.get("hypothesis") for row in comparisons)
    hypotheses = f", those of the hypotheses ({'; '.join(named)}) as they are, the others" if named else ""
    return (
        f"By how many points `{model}` differs from the others, mean over seeds; in brackets p-values of paired tests"
        f"{hypotheses} after Holm's correction for all {corrected}, bold below {SIGNIFICANT}:\n\n"
        f"{markdown_table([*place, *(f'`{other}`' for other in others)], rows)}{_limit_of_wilcoxon(comparisons)}"
    )


def _limit_of_wilcoxon(comparisons: Sequence[Mapping[str, Any]]) -> str:
    """How small a p-value Wilcoxon's test can give with as many seeds, where it was taken."""
    pairs = [row["pairs"] for row in comparisons if row.get("test") == "Wilcoxon"]
    if not pairs:
        return ""
    few = min(pairs)
    return (
        f"\n\nWhere Wilcoxon's test was taken ({len(pairs)} of {len(comparisons)} comparisons), no p-value of {few} "
        f"seeds can be below {2 / 2**few:.2g}, however large the difference."
    )


def noise_table(noise: Noise) -> str:
    """What noise does to a network before and after `layeract adapt`, as its result holds it; means over severities."""
    before, after = (noise["without"][name] for name in NETWORKS)
    rows = [["none", f"{before:.2f}", f"{after:.2f}", ""]]
    for corruption, found in noise["corruptions"].items():
        before, after = (statistics.mean(found[name]) for name in NETWORKS)
        rows.append([corruption, f"{before:.2f}", f"{after:.2f}", f"{after - before:+.2f}"])
    return markdown_table(["noise", *NETWORKS, "difference"], rows)
